"""`nl-course grade`: what a class handed in, checked, for the teacher and for each learner.

* `submissions.py`  who handed in which notebooks, and which exercises are asked for
* `answers.py`      the code of one answer, cut out of a notebook: its function and what that needs
* `screen.py`       what an answer may use, looked up in its code and watched while it runs
* `worker.py`       one submission in a process of its own, with limits
* `report.py`       the table, the CSV and the pages
* `command.py`      the command's options
"""
