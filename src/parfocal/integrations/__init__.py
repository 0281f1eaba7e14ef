"""The losses as the training loops of other packages call them: a file a framework.

None of these files imports the framework that it is named after.
"""
