"""Find the faces in pictures and predict their expressions, from Python or the command line.

    from fer_lib.predict import Predictor
    for face in Predictor.default()("party.jpg"):
        print(face.emoji, face.expression, face.probabilities)

The command line also reads folders and videos: see `python -m fer_lib.predict --help`.
"""

from fer_lib.predict.predictor import Face, Predictor
