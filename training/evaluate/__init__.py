"""Evaluation of a bank: `python -m training evaluate --help`.

people        people who do not exist, drawn when they are needed, with the truth about them
puppet        what is judged: a portrait and coefficients in, pictures and moved points out
pictures      likeness to the truth, pixel by pixel
motion        where points went, and what moved that should not have
understanding coefficients read off pictures, the person, the emotion
voices        the mouth that goes with a voice
photographs   real pictures and clips
report        table, plots and contact sheets
"""
