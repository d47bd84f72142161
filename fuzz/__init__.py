"""Damaged input by the thousand: a seeded campaign (``make fuzz``), and programs killed at any moment (``make kill``).

Every input is made by code from a seed and a number, so a finding is replayed by its name alone::

    make fuzz SEED=7 COUNT=20000          # another campaign
    python -m fuzz --replay nifti:7:123   # one input of it, with its traceback
    python -m fuzz --targets nifti,index  # two targets only

What may happen to an input is a clear error (one of verse3d's own, of the kind that the target names) or the right
answer, which the target compares with an oracle. A finding is everything else: another exception, a wrong answer, too
much time or memory, a file outside of the output folder, a temporary file or an open file left behind.

Where things are: ``mutate`` damages, ``targets/`` read and compare, ``ticket`` names inputs, ``judge`` runs in the
workers, ``watch`` looks after them, ``campaign`` hands out the tickets, ``kill`` is the second part.

How to add a target
-------------------

1. Write a class with ``name``, ``share``, ``write`` and ``read`` in a module of ``fuzz/targets``::

       class Colours(Target):
           name = "colours"
           share = 300                        # inputs in a campaign of 10,000 or so
           refusals = (DataError,)

           def intact(self, room: Room) -> Input:
               (room.inputs / "colours.txt").write_text("1 255 0 0 C1\n")
               return Input("intact")

           def write(self, dice: Dice, room: Room) -> Input:
               text, words = mutate.text(dice, "1 255 0 0 C1\n")
               (room.inputs / "colours.txt").write_bytes(text)
               return Input(words)

           def read(self, room: Room, made: Input) -> None:
               colours = read_colours(room.inputs / "colours.txt")
               require(all(0 <= value < 256 for value in colours), f"colours {colours}")

2. List it in ``fuzz/targets/__init__.py``.
3. Keep what once went wrong as a function in its ``past``: a few lines that make the input, never a binary file.
"""
