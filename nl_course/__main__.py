"""`python -m nl_course` is the command `nl-course`."""

from nl_course.app.start import program

if __name__ == "__main__":
    program()
