"""The command line `nl-course` and what it starts: the lab, the doctor, training, the student build.

`cli.py` is the program and lists the commands; every other file here is one of them.
"""
