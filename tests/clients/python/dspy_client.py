"""dspy: a prediction with typed fields, with and without the gateway's JSON."""

import dspy
from report import KEY, MODEL, PERSON, QUESTION, URL, feature, run

model = dspy.LM(
    f"hosted_vllm/{MODEL}", api_base=URL, api_key=KEY, max_tokens=200, temperature=0, cache=False
)
dspy.configure(lm=model)


class Person(dspy.Signature):
    """Name and age of a person."""

    text: str = dspy.InputField()
    name: str = dspy.OutputField()
    age: int = dspy.OutputField()


@feature("chat")
def chat() -> None:
    assert model(QUESTION)[0]


# dspy asks for JSON only of models in its catalogue, so the form is given.
FORM = {
    "type": "json_schema",
    "json_schema": {
        "name": "person",
        "schema": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 40},
                "age": {"type": "integer", "minimum": 0, "maximum": 150},
            },
            "required": ["name", "age"],
            "additionalProperties": False,
        },
    },
}


@feature("JSON schema")
def schema() -> None:
    with dspy.context(adapter=dspy.JSONAdapter()):
        found = dspy.Predict(Person, response_format=FORM)(text=PERSON)
    assert isinstance(found.age, int)


run()
