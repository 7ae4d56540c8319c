"""Evaluation of a bank: `python -m training evaluate --help`.

bank          the command: measures everything and writes the report
people        test people, rendered on demand with ground truth
puppet        interface through which a renderer is evaluated
measure       drives the portraits of all people and compares the frames with the true ones
pictures      similarity to the truth by pixels
motion        motion of points, and motion that should not occur
recognition coefficients, identity and emotion recognised in pictures
voices        mouth movement for voices
lips          lip-sync of recorded voices, beside baselines (a command of its own)
photographs   real pictures and clips
figures       rows of the table
report        table, plots and contact sheets
seeds            head motion of one line with several seeds, as clips and a contact sheet
performance      head motion of a bank, against the gesture model that it was trained on (a command of its own)
clip_motion      head motion of people in clips, beside the flow's
head_motion      measures of head motion that both use
rows             tables of figures with goals
compare_detail   detail transfer compared with plain enlargement
"""
