"""`sequencer verify`: whether the promises I1 to I7 were kept, checked on what the topics hold.

The command is in `command`, the judgement in `verifier`; everything else is below the one or the other.
"""
