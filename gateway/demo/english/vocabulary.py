"""The words from which the questions are made."""

from typing import Final

PEOPLE: Final = (
    "the baker", "a young doctor", "my neighbour", "the new teacher", "an old fisherman",
    "the night nurse", "our landlord", "a tired gardener", "the bus driver", "her cousin",
    "the village librarian", "a travelling musician", "the chief engineer", "their grandmother",
    "a curious student", "the museum guide",
)  # fmt: skip

ACTIONS: Final = (
    "repaired the broken window", "painted the garden gate green", "wrote a long letter",
    "planted forty apple trees", "lost the key to the cellar", "opened a small shop",
    "counted the boats in the harbour", "carried the boxes upstairs", "sold an old bicycle",
    "baked bread for the whole street", "found a map of the city", "cleaned the village pond",
    "measured the height of the tower", "forgot the name of the hotel", "mended a fishing net",
    "collected stamps from nine countries", "built a bridge of wood and rope",
    "took the last train home",
)  # fmt: skip

TIMES: Final = (
    "on Monday morning", "before breakfast", "last winter", "during the storm",
    "after the concert", "in the middle of the night", "a week ago", "on a warm evening",
    "shortly before the holidays", "at the end of the day",
)  # fmt: skip

REASONS: Final = (
    "because the weather was too cold to travel", "although no one had asked for it",
    "while the children were asleep", "since the old one had been damaged by rain",
    "so that the guests would feel at home", "even though it took three days",
    "because the council had promised to pay half of the cost",
    "while the radio played songs from the sixties",
)  # fmt: skip

RESULTS: Final = (
    "Everyone was surprised by the result", "The newspaper printed a photograph of it",
    "Two friends offered to help with the rest", "The work was finished before dark",
    "It cost more than anyone had expected", "Since then the street has been much quieter",
    "The mayor came to say thank you", "A second attempt is planned for next spring",
    "Only the dog did not like the change", "Visitors now come from three towns away",
)  # fmt: skip

TERMS: Final = (
    "photosynthesis", "inflation", "an eclipse of the moon", "a database index", "gravity",
    "a mortgage", "the water cycle", "a vaccine", "encryption", "a solar panel", "evaporation",
    "a lever", "compound interest", "an ecosystem", "a compass", "a web browser", "erosion",
    "a magnet", "the greenhouse effect", "a referendum", "yeast", "a battery", "an earthquake",
    "a search engine", "magnetism", "a telescope", "a budget", "the food chain", "a tide",
    "machine learning", "a patent", "friction", "a thermometer", "supply and demand",
    "a rainbow", "the immune system", "a lighthouse", "a volcano", "a calendar", "insulation",
)  # fmt: skip

CLAIMS: Final = (
    ("Can {} fly?", ("a swallow", "a horse", "a penguin", "a bat", "an eagle", "a whale")),
    ("Is {} a kind of food?", ("bread", "granite", "cheese", "a hammer", "rice", "glass")),
    ("Is {} in Europe?", ("France", "Brazil", "Norway", "Japan", "Portugal", "Kenya")),
    ("Is {} larger than a car?", ("a ship", "a spoon", "a castle", "a mouse", "a mountain")),
    ("Do people use {} to write?", ("a pencil", "a ladder", "a keyboard", "an umbrella")),
    ("Does {} live in water?", ("a shark", "a camel", "a trout", "a goat", "an octopus")),
    ("Is {} usually cold?", ("ice", "an oven", "snow", "a desert at noon", "a glacier")),
    ("Can you drink {}?", ("milk", "sand", "tea", "a brick", "orange juice")),
    ("Is {} made of metal?", ("a coin", "a cloud", "a nail", "a pillow", "a railway track")),
)  # fmt: skip

HEROES: Final = (
    "a fox who is afraid of the dark", "two brothers and a borrowed boat",
    "a clock that runs backwards", "a lighthouse keeper's daughter", "a very polite robot",
    "the smallest horse of the farm", "a postman on his last day", "a cat that can count",
    "three friends lost in the mountains", "a dragon who wants to open a bakery",
)  # fmt: skip

PLACES: Final = (
    "in a city under the sea", "on an island without trees", "in a snowed-in railway station",
    "at the edge of a large forest", "in a library at night", "on a ship without a captain",
)  # fmt: skip

MISSPELT: Final = {
    "because": "becuase", "the": "teh", "was": "were", "and": "adn", "their": "there",
    "children": "childs", "wrote": "writed", "found": "finded", "took": "taked", "sold": "selled",
    "built": "builded", "forgot": "forgetted", "had": "has", "neighbour": "nieghbour",
    "although": "allthough", "before": "befor", "friends": "freinds", "finished": "finnished",
    "surprised": "suprised", "morning": "mornning", "evening": "evning", "been": "bean",
}  # fmt: skip
