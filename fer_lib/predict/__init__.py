"""Pictures, folders and videos -> faces -> expressions, from one line or the command line.

    from fer_lib.predict import Predictor
    for face in Predictor.default()("party.jpg"):
        print(face.emoji, face.expression, face.probabilities)

`python -m fer_lib.predict --help` is the command line.
"""

from fer_lib.predict.predictor import Face, Predictor

__all__ = ["Face", "Predictor"]
