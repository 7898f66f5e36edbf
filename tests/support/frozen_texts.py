"""Answers as models give them, for the frozen runs: short, long, refusals, other scripts, nothing. All our own."""

YES = (
    "Yes", "Yes", "Yes", "Yes.", "Yes.", "yes", "YES", " Yes", "\nYes", "Yes!", "Yes,", "**Yes**", "\"Yes\"",
    "Yeah.", "Yep", "y", "Yes, there is a {x} in the image.", "Yes, the {x} stands on the left, beside the door.",
    "Yes, it is.", "There is a {x} in the image.", "I can see a {x}, so yes.", "The answer is yes.",
    "Certainly: a {x}, small and dark.", "Yes — no doubt about it.", "yes , a {x}", "A: yes", "Oui.", "はい",
    "Yes\nIs there anything else?", "Yes. No other {x} is there.",
    "Yes, it's a photo of a {x} that was taken from far away; behind it one sees a wall, some grass and a grey sky.",
)  # fmt: skip
NO = (
    "No", "No", "No", "No.", "No.", "no", "NO", " No", "\nNo", "No!", "No,", "**No**", "Nope", "n", "None.", "nah",
    "No, there is no {x} in the image.", "No, there isn't.", "There is no {x} in the picture.",
    "I don't see a {x}.", "Not that I can see.", "The answer is no.", "It isn't visible.", "There are none.",
    "I cannot find a {x} here.", "A: no", "no , nothing", "Nein.", "いいえ", "No\nThe image shows something else.",
    "No. Yes, there is a shadow, but no {x}.",
    "No, the picture shows an empty street with wet stones, and nothing in it that one would call a {x}.",
)  # fmt: skip
ODD = (
    "", " ", "\n", "…", "🙂", "I'm sorry, but I can't answer that.",
    "As a language model I cannot look at pictures.", "Yes and no.", "It is not clear, maybe yes.", "maybe",
    "Unknown.", "3.5 people, no", "I know of nothing like it.", "Snow everywhere.", "Eyes and a nose.",
    "Nobody can tell.", "the the the the the", "<unk><unk>", "It depends on what a {x} is.", "A {x}?",
    "Yes no yes no", "1,000 of them", "It's the {x}'s shadow.", "нет", "a) yes b) no",
)  # fmt: skip
OBJECTS = ("lamp", "dog", "kite", "bicycle", "teapot", "ladder", "bench", "umbrella", "clock", "goose")

COCO = {
    "dog": "dog", "puppies": "dog", "cat": "cat", "kittens": "cat", "man": "person", "women": "person",
    "children": "person", "policeman": "person", "bus": "bus", "buses": "bus", "trucks": "truck",
    "bicycles": "bicycle", "bike": "bicycle", "airplane": "airplane", "jets": "airplane", "sailboat": "boat",
    "canoes": "boat", "traffic lights": "traffic light", "street light": "traffic light",
    "fire hydrant": "fire hydrant", "stop sign": "stop sign", "benches": "bench", "geese": "bird",
    "sparrow": "bird", "horses": "horse", "lambs": "sheep", "calves": "cow", "elephant": "elephant",
    "umbrellas": "umbrella", "suitcases": "suitcase", "wine glasses": "wine glass", "knives": "knife",
    "cups": "cup", "bowls": "bowl", "banana": "banana", "hot dog": "hot dog", "pizzas": "pizza",
    "doughnuts": "donut", "cupcakes": "cake", "sofa": "couch", "potted plants": "potted plant",
    "dining table": "dining table", "television": "tv", "laptops": "laptop", "cell phones": "cell phone",
    "stove": "oven", "fridge": "refrigerator", "books": "book", "vases": "vase", "teddy bears": "teddy bear",
    "toothbrush": "toothbrush", "skis": "skis", "surfboards": "surfboard", "tennis racket": "tennis racket",
    "baseball bat": "baseball bat", "scissors": "scissors", "zebras": "zebra",
}  # fmt: skip
"""Words of captions and the class that each stands for."""
AMBER = {
    "sky": ("cloud", "sun"), "grass": ("lawn", "meadow"), "dog": ("puppy", "hound"), "tree": ("forest", "wood"),
    "street": ("road", "lane"), "house": ("building", "roof"), "river": ("water", "stream"),
    "boat": ("ship", "canoe"), "mountain": ("hill", "rock"), "flower": ("rose", "tulip"), "car": ("van", "taxi"),
    "bridge": ("arch",),
}  # fmt: skip
"""A table of associations as AMBER has one: a word, and what may stand for it."""
SAFE = ("image", "picture", "light")
FIRST = (
    "The picture shows", "In the image one sees", "Here are", "We look at", "This is a photo with", "There are",
)  # fmt: skip
THEN = (
    "Further back there are", "To the left I notice", "Beside them stand", "In front one finds", "Also visible:",
)  # fmt: skip
LAST = (
    "", "", " It is a quiet afternoon.", " Everything looks calm and well kept.",
    " The colours are warm; nothing moves.", " Überall liegt Staub — “old and grey”.", " 日が沈む。",
    " I am not sure about the rest", " …", " The overall mood is cheerful!",
)  # fmt: skip
NO_CAPTION = (
    "", " ", "I'm sorry, I can't describe that.", "…", "A blur.", "🌫️",
    "Nothing but fog and snow, as far as one can see.",
)  # fmt: skip

SHORT = {
    "stop": ("stop", "Stop.", "STOP", "stop sign", "the stop", "It says stop"),
    "2": ("2", "two", "Two.", "ii", "2 dogs", "22"),
    "it's time": ("it's time", "its time", "It's time!", "time", "It is time"),
    "1,000": ("1,000", "1000", "1,000 km", "a thousand"),
    "café noir": ("café noir", "cafe noir", "Café Noir.", "noir", "the café noir"),
    "mind the gap": ("mind the gap", "Mind the gap!", "mind gap", "the gap", "mind  the\ngap"),
    "no parking": ("no parking", "No Parking.", "parking", "no-parking", "no parking?"),
    "don't walk": ("don't walk", "dont walk", "Don't walk", "walk", "do not walk"),
    "open 9-5": ("open 9-5", "open 9 5", "Open 9-5.", "open", "9-5"),
    "unanswerable": ("unanswerable", "I can't read it.", "", "unknown", "…", "読めない"),
}  # fmt: skip
"""What is written in an image, and how it is answered."""
PEOPLE = (
    "Ada Thorne", "the Hallvik Choir", "Iris & Sons", "Dr. Emil Krag", "O'Shea", "José Marín", "Lake Skarn",
    "1874", "the 3rd Guard",
)  # fmt: skip
WRAPS = (
    "{}", "{}", "{}", " {}", "{}.", "{}!", "The {}", "{}\nQuestion: who else", "\n{}", "It was {}.", "\"{}\"",
    "{} (probably)", "I think {}, but also others", "{upper}", "{lower}", "a {lower}", "",
)  # fmt: skip
REFUSED = ("I have no comment.", "unknown", "", "…", "わからない", "The passage does not say.")
