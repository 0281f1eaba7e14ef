"""The losses as the training loops of other packages call them: a file a framework.

None of these files imports a framework, but for those two whose callbacks have a base class there.
"""
