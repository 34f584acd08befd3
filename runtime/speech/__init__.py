"""Speech to text: sound -> words with their times -> utterances. A recogniser is imported when one is used."""
