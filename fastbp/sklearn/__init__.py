"""scikit-learn's multilayer perceptrons with fastbp's kernels: change one import line.

``from fastbp.sklearn import MLPClassifier, MLPRegressor`` in place of ``from sklearn.neural_network import ...``.
Beside them estimators of many networks, which are trained together: ensembles, and a network for each group of rows.
"""

try:
    import sklearn
except ImportError as error:
    raise ImportError("fastbp.sklearn needs scikit-learn: pip install 'fastbp[sklearn]'") from error
if tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 7):
    raise ImportError(
        f"fastbp.sklearn needs scikit-learn 1.7 or newer, and found {sklearn.__version__}: "
        "pip install --upgrade scikit-learn"
    )

from fastbp.sklearn.classifier import MLPClassifier  # noqa: E402
from fastbp.sklearn.ensemble import MLPEnsembleClassifier, MLPEnsembleRegressor  # noqa: E402
from fastbp.sklearn.grouped import GroupedMLPClassifier, GroupedMLPRegressor  # noqa: E402
from fastbp.sklearn.regressor import MLPRegressor  # noqa: E402
from fastbp.sklearn.search import MLPSearchCV  # noqa: E402

__all__ = [
    "GroupedMLPClassifier", "GroupedMLPRegressor", "MLPClassifier", "MLPEnsembleClassifier", "MLPEnsembleRegressor",
    "MLPRegressor", "MLPSearchCV",
]  # fmt: skip
