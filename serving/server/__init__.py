"""``mmx serve``: one bundle over HTTP, for many people at once."""
