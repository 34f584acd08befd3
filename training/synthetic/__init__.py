"""A made-up data set: drawn faces, synthesised voices and composed sentences whose six emotions can be learned."""
