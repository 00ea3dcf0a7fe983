"""What the pages say is so: their programs run, their outputs are real, their links lead."""
