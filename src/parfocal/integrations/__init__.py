"""The losses as the training loops of other packages call them: one file per framework.

These files import no framework, except the two whose callbacks need a base class from it.
"""
