"""Soft accuracy of short answers about images, as VQA and TextVQA count it: ten people answered each question.

    accuracy = mean over the ten of min(1, answers among the other nine that equal the model's / 3)

Answers are compared after a normalisation (EvalAI's, which the evaluation scripts of VQA, TextVQA and lmms-eval share):
lower case; commas and question marks go; ``'s`` becomes a word; a punctuation mark goes where a blank touches it or the
text has a number such as 1,000, else it becomes a blank; full stops go unless a digit follows; number words up to ten
become digits; articles go; contractions get their apostrophe.

    from sightline.eval.scoring.vqa import normalise
    normalise("The two dogs.")   # '2 dogs'
"""

from collections.abc import Sequence

from .yes_no import vqa_words

HUMANS = 10
_NUMBERS = {
    word: str(value)
    for value, words in enumerate(
        ("none zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
    for word in words.split()
}
_ARTICLES = ("a", "an", "the")
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't
    not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll
    somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's
    won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _contractions() -> dict[str, str]:
    """A contraction that lacks one of its apostrophes -> the contraction; and the one odd entry of the table."""
    found = {"somebody'd": "somebodyd"}
    for whole in _CONTRACTED.split():
        places = [place for place, letter in enumerate(whole) if letter == "'"]
        found |= {whole[:place] + whole[place + 1 :]: whole for place in places}
    return found


_CONTRACTIONS = _contractions()


def normalise(answer: str) -> str:
    """An answer as it is compared."""
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    words = " ".join(vqa_words(text.replace("\n", " ").replace("\t", " ").strip())).lower().split()
    numbered = (_NUMBERS.get(word, word) for word in words)
    return " ".join(_CONTRACTIONS.get(word, word) for word in numbered if word not in _ARTICLES)


def soft_accuracy(answer: str, answers: Sequence[str]) -> float:
    """How well an answer agrees with people's, 0 to 1; an empty list of theirs gives 0."""
    said = normalise(answer)
    theirs = [normalise(other) for other in answers]
    if not theirs:
        return 0.0
    same = theirs.count(said)
    return sum(min(1.0, (same - (other == said)) / 3) for other in theirs) / len(theirs)
