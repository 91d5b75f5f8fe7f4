from sklearn.utils.estimator_checks import parametrize_with_checks
from posneg_rec.interactions import RareItemMasker, SequenceBuilder

@parametrize_with_checks([SequenceBuilder(), RareItemMasker()])
def test_estimator_checks(estimator, check):
    check(estimator)
