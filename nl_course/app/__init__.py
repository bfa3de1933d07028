"""The command line `nl-course`, and what it starts: the lab, the doctor, training, the student build."""
