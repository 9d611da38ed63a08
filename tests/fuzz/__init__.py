"""Damaged files on purpose: thousands of broken scans, labels, models and tables, none of which may harm a user.

    python -m tests.fuzz --files 20000            the long run; a line per kind of file, and every fault with its number
    python -m tests.fuzz --replay dicom 1234      one file again, with the traceback; --keep FOLDER saves the file

How it works, module by module:

- seeds.py: small whole files of every kind, made here and, where they are there, real ones.
- mutate.py: makes file number N of a kind out of a seed. The same kind and number give the same bytes.
- targets.py: what the workbench does with a file of that kind when somebody hands it over.
- worker.py: a process that tries one file after the other, with a limit on its memory.
- runner.py: starts the workers, notices when one dies or hangs, and adds up.

A file passes when it is read, or refused with an AutosegError (a sentence for the user). A fault is anything else: another
exception, a process that dies, more than 5 seconds, more than 1 GB of memory, or a file written outside the output folder.
"""
