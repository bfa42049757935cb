#!/usr/bin/env python3
"""Endless small conversations and stories, drawn from one seeded generator: what ds4-tiny is trained and measured on.

    tasks.py --n 3 --seed 1 --kinds chat,tool          look at some
    tasks.py --n 100 --seed 1 --json > test.jsonl      prompt, completion, check, one a line

Even seeds train, odd seeds test. A sample has a prompt, a completion (the last assistant turn with its end token), a
check (what the answer must contain) and spans: the character ranges of prompt + completion that the assistant wrote.
The rendering is that of the engine (src/text): DeepSeek V4's message encoding. Python's standard library alone.
"""

import argparse
import json
import random

import world as w

BOS, EOS, USER, ASSISTANT = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"
THINK, END_THINK, DSML = "<think>", "</think>", "｜DSML｜"
TOOLS_HEAD = f"""## Tools

You have access to a set of tools to help answer the user's question. You can invoke tools by writing a \
"<{DSML}tool_calls>" block like the following:

<{DSML}tool_calls>
<{DSML}invoke name="$TOOL_NAME">
<{DSML}parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</{DSML}parameter>
...
</{DSML}invoke>
<{DSML}invoke name="$TOOL_NAME2">
...
</{DSML}invoke>
</{DSML}tool_calls>

String parameters should be specified as is and set `string="true"`. For all other types (numbers, booleans, arrays, \
objects), pass the value in JSON format and set `string="false"`.

If thinking_mode is enabled (triggered by {THINK}), you MUST output your complete reasoning inside \
{THINK}...{END_THINK} BEFORE any tool calls or final response.

Otherwise, output directly after {END_THINK} with tool calls or final response.

### Available Tool Schemas

"""
SHORT_HEAD = "## Tools\n\n### Available Tool Schemas\n\n"
TOOLS_TAIL = "\n\nYou MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.\n"

R = random.Random(0)        # the one source of chance: seed() it
short_heads = 0.0           # share of tool conversations with a short head, which train the same at half the cost


def seed(number):
    R.seed(number)


def one(choices):
    return R.choice(list(choices))


def capital(text):
    return text[:1].upper() + text[1:]


def a(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def plural(noun):
    return "mice" if noun == "mouse" else noun + ("es" if noun.endswith(("ch", "x")) else "s")


# ---- rendering ----------------------------------------------------------------------------------------------------

def answer(text="", think="", calls=()):
    return {"text": text, "think": think, "calls": calls}


def render_calls(calls):
    lines = [f"\n\n<{DSML}tool_calls>"]
    for name, arguments in calls:
        lines.append(f'<{DSML}invoke name="{name}">')
        for key, value in arguments.items():
            plain = isinstance(value, str)
            shown = value if plain else json.dumps(value, ensure_ascii=False)
            kind = "true" if plain else "false"
            lines.append(f'<{DSML}parameter name="{key}" string="{kind}">{shown}</{DSML}parameter>')
        lines.append(f"</{DSML}invoke>")
    return "\n".join(lines) + f"\n</{DSML}tool_calls>"


def render(kind, turns, think, check, system="", tools=()):
    """turns: [(what the user says, answer)]; a list instead of a text holds tool results."""
    text, spans = BOS + system, []
    if tools:
        head = SHORT_HEAD if R.random() < short_heads else TOOLS_HEAD
        text += "\n\n" + head + "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools) + TOOLS_TAIL
    for i, (said, reply) in enumerate(turns):
        if isinstance(said, list):
            said = "\n\n".join(f"<tool_result>{result}</tool_result>" for result in said)
        # Thoughts of earlier turns are dropped, unless there are tools.
        shown = think and (tools or i == len(turns) - 1)
        text += USER + said + ASSISTANT + (THINK if shown else END_THINK)
        body = reply["think"] + END_THINK + reply["text"] if shown else reply["text"]
        if reply["calls"] and not shown:
            body = reply["think"]       # what a tool is called for is said, where it is not thought
        body += (render_calls(reply["calls"]) if reply["calls"] else "") + EOS
        spans.append((len(text), len(text) + len(body)))
        text += body
    begin = spans[-1][0]
    return {"kind": kind, "prompt": text[:begin], "completion": text[begin:], "check": check, "spans": spans}


def as_typed(question):
    """People write as they like: sometimes no capital letter, sometimes no mark at the end."""
    if R.random() < 0.15:
        question = question[:1].lower() + question[1:]
    if R.random() < 0.12 and question[-1:] in ".?!":
        question = question[:-1]
    return question


# ---- stories ------------------------------------------------------------------------------------------------------

class Person:
    def __init__(self, other=None):
        self.name = one(name for name in w.GIRLS + w.BOYS if name != other)
        human = R.random() < 0.72
        girl = self.name in w.GIRLS if human else R.random() < 0.5
        self.what = ("girl" if girl else "boy") if human else one(w.ANIMALS)
        self.she, self.her, self.him = ("she", "her", "her") if girl else ("he", "his", "him")


class Scene(dict):
    """What the names in braces of a story stand for; a_x is x with its article, xs many."""

    def __init__(self):
        hero = Person()
        friend, trouble, storm = Person(hero.name), one(w.TROUBLES), one(w.STORMS)
        super().__init__(
            N=hero.name, what=hero.what, she=hero.she, her=hero.her, him=hero.him, F=friend.name, fwhat=friend.what,
            P=f"the {one(w.PLACES)}", spot=one(w.SPOTS), toy=one(w.TOYS), col=one(w.COLORS), food=one(w.FOODS),
            kin=one(w.KIN), trait=one(w.TRAITS), mood=one(w.MOODS), sky=one(w.WEATHER[:5]), weather=one(w.WEATHER),
            animal=one(w.ANIMALS), skill=one(w.SKILLS), building=one(w.BUILDINGS), trouble=trouble[0],
            rescue=trouble[1], storm=storm[0], stormy=storm[1], cover=storm[2])
        self.update(obj=f"{self['col']} {self['toy']}", She=capital(hero.she), Her=capital(hero.her))

    def __missing__(self, name):
        return plural(self[name[:-1]]) if name.endswith("s") else a(self[name[2:]])

    def fill(self, template):
        return (template if isinstance(template, str) else one(template)).format_map(self)


def story():
    """-> text, [(question, answer, the answer as a sentence)], scene"""
    scene = Scene()
    sentences, questions = one(w.PLOTS)
    lines = [scene.fill(line) for line in [*w.OPENINGS, *sentences, w.ENDINGS]]
    questions = [tuple(scene.fill(part) for part in question) for question in questions]
    questions.append(one([("What is the name of the main character?", scene["N"],
                           f"The name of the main character is {scene['N']}"),
                          ("Who is the story about?", scene["N"], f"The story is about {scene['N']}")]))
    lines = [line for line in lines if line]
    if R.random() < 0.5:
        return " ".join(lines), questions, scene
    middle = R.randrange(2, len(lines) - 2)
    return " ".join(lines[:middle]) + "\n\n" + " ".join(lines[middle:]), questions, scene


def story_task():
    text, questions, scene = story()
    if R.random() < 0.35:
        wish = one(["Tell me a story.", "Tell me a story.", "Write a story.", "Tell me a short story.",
                    "Can you tell me a story?", "Tell me a story about {a_what}.",
                    "Tell me a story about {a_what} named {N}.", "Write a short story about {N}.",
                    "Please tell a story with {N} in it."])
        reply = answer(text, f"A short story about {scene['N']}.")
        return render("story", [(as_typed(scene.fill(wish)), reply)], R.random() < 0.5, "", one(w.SYSTEM))
    R.shuffle(questions)
    questions = questions[:R.randint(1, len(questions))]
    turns = [(q, answer(sentence + ".", f"The story says: {right}.")) for q, right, sentence in questions]
    turns[0] = f"Read this story.\n\n{text}\n\n{turns[0][0]}", turns[0][1]
    return render("story", turns, R.random() < 0.4, questions[-1][1], one(w.SYSTEM))


# ---- chat and facts -----------------------------------------------------------------------------------------------

def fact():
    """-> question, answer, thought"""
    k = R.randrange(9)
    if k < 2:
        if R.random() < 0.25:
            return one(w.UNKNOWN), one(w.DO_NOT_KNOW), "This is too hard for me."
        questions, reply = one(w.ABOUT)
        return one(questions), reply, "You ask about me."
    if k == 2:
        questions, replies = one(w.TALK)
        return one(questions), one(replies), "A friendly answer."
    if k == 3:
        land, city = one(w.CAPITALS.items())
        question = one([f"What is the capital of {land}?", f"Which city is the capital of {land}?",
                        f"Capital of {land}?"])
        return question, f"The capital of {land} is {city}.", f"{land}: {city}."
    if k == 4:
        animal, sound = one(w.SOUNDS.items())
        question = one([f"What does {a(animal)} say?", f"What sound does {a(animal)} make?"])
        return question, f"{capital(a(animal))} says {sound}.", f"{animal}: {sound}."
    if k == 5:
        pair = list(one(w.OPPOSITES.items()))
        R.shuffle(pair)
        x, y = pair
        return (one([f"What is the opposite of {x}?", f'Opposite of "{x}"?']), f"The opposite of {x} is {y}.",
                f"{x} and {y}.")
    if k == 6:
        english, italian = one(w.ITALIAN.items())
        if R.random() < 0.6:
            question = one([f'How do you say "{english}" in Italian?', f'What is "{english}" in Italian?'])
            return question, f'"{capital(english)}" in Italian is "{italian}".', f"{english} = {italian}."
        return (f'What does "{italian}" mean?', f'"{capital(italian)}" is Italian and means "{english}".',
                f"{italian} = {english}.")
    what, names = ("day", w.DAYS) if k == 7 else ("month", w.MONTHS)
    i = R.randrange(len(names))
    after = names[(i + 1) % len(names)]
    return f"Which {what} comes after {names[i]}?", f"After {names[i]} comes {after}.", f"{names[i]}, {after}."


def equally_good(reply):
    """All answers that would be as right as this one: there is more than one for a greeting."""
    groups = [replies for _, replies in w.TALK] + [w.DO_NOT_KNOW]
    return next((group for group in groups if reply in group), (reply,))


def fact_turn():
    question, reply, thought = fact()
    return as_typed(question), answer(reply, thought)


def chat_task():
    turns = [fact_turn() for _ in range(one([1, 1, 2, 3]))]
    return render("chat", turns, R.random() < 0.5, turns[-1][1]["text"], one(w.SYSTEM))


def memory_task():
    person, colour, animal = Person(), one(w.COLORS), one(w.ANIMALS)
    turns = [(one([f"My name is {person.name}.", f"Hi, I am {person.name}.",
                   f"Hello! You can call me {person.name}."]),
              answer(f"Hello {person.name}! Nice to meet you.", "A greeting."))]
    facts = [("What is my name?", f"Your name is {person.name}.")]
    if R.random() < 0.6:
        turns.append((f"My favourite colour is {colour}.",
                      answer(f"{capital(colour)} is a nice colour.", f"Colour {colour}.")))
        facts.append(("What is my favourite colour?", f"Your favourite colour is {colour}."))
    if R.random() < 0.6:
        turns.append((f"I have {a(animal)}.", answer(f"{capital(a(animal))} is a good friend.", f"A pet: {animal}.")))
        facts.append(("Which animal do I have?", f"You have {a(animal)}."))
    turns += [fact_turn() for _ in range(R.randrange(3))]
    question, right = one(facts)
    turns.append((as_typed(question), answer(right, "You told me before.")))
    return render("memory", turns, R.random() < 0.4, right, one(w.SYSTEM))


# ---- numbers, lists, text -----------------------------------------------------------------------------------------

def written_sum(x, y):
    """Two numbers of two digits are spelt, for some of them are one token; then they are added digit by digit from the
    last one on, the carry as the third number of a step."""
    if x < 10 and y < 10:
        return f"{x} + {y} = {x + y}"
    steps, carry = [], 0
    for i, j in ((x % 10, y % 10), (x // 10, y // 10)):
        steps.append(f"{i} + {j}{' + 1' * carry} = {i + j + carry}")
        carry = (i + j + carry) // 10
    return f"{x // 10} {x % 10} + {y // 10} {y % 10}: " + ", ".join(steps)


def written_difference(x, y):
    return f"{y} + {x - y} = {x}"


def calculation(large=0.4):
    """-> what is computed as shown, its steps, the result; large: share of sums of numbers up to 99"""
    k = R.randrange(7)
    if k < 4:
        x, y = (R.randrange(100 if R.random() < large else 10) for _ in range(2))
        return f"{x} + {y}", written_sum(x, y), x + y
    if k < 6:
        x = R.randrange(one([10, 20]))
        y = R.randint(0, x)
        return f"{x} - {y}", written_difference(x, y), x - y
    x, y = R.randint(0, 5), R.randint(0, 5)
    return one([f"{x} * {y}", f"{x} x {y}", f"{x} times {y}"]), f"{x} times {y} = {x * y}", x * y


def drill():
    """-> the beginning of a line, and its end: what sums are made of, to be known by heart"""
    k = R.randrange(10)
    if k < 5:
        x, y, carry = R.randrange(10), R.randrange(10), R.randrange(2)
        return f"{x} + {y}" + " + 1" * carry + " =", f" {x + y + carry}\n"
    shown, steps, right = calculation(0.8)
    if "," in steps:
        return f"{shown}:", f" {steps}, so {shown} = {right}\n"
    if k < 8:
        return f"{shown}:", f" {steps}\n"
    return f"{shown} =", f" {right}\n"


def comparison():
    """-> question, answer, thought, result"""
    numbers = R.sample(range(one([10, 100])), R.randint(2, 3))
    word, right = one([("biggest", max(numbers)), ("smallest", min(numbers))])
    question = f"Which number is the {word}: {', '.join(map(str, numbers))}?"
    return question, f"The {word} number is {right}.", f"Sorted: {', '.join(map(str, sorted(numbers)))}.", right


def math_task():
    """Sums of two digits are worked out, in thought or in the answer; a sum of single digits is known by heart."""
    k, think = R.randrange(8), R.random() < 0.6
    if k < 2:
        question, text, thought, right = word_problem() if k else comparison()
        check = str(right)
    else:
        shown, steps, right = calculation()
        question = as_typed(one([f"What is {shown}?", f"{shown} = ?", f"Compute {shown}.", f"How much is {shown}?"]))
        text, thought, check = f"{shown} = {right}.", steps + ".", f"{shown} = {right}"
        if not think and "," in steps:
            text = f"{steps}, so {text}"
    return render("math", [(question, answer(text, thought))], think, check, one(w.SYSTEM))


def word_problem():
    name, things, x, y = Person().name, plural(one(w.FOODS + w.TOYS)), R.randrange(2, 10), R.randrange(1, 10)
    if R.random() < 0.5 or y >= x:
        question = f"{name} has {x} {things} and gets {y} more. How many {things} does {name} have now?"
        right, thought = x + y, f"{x} + {y} = {x + y}."
    else:
        question = f"{name} has {x} {things} and gives away {y}. How many {things} are left?"
        right, thought = x - y, f"{written_difference(x, y)}, so {x} - {y} = {x - y}."
    return question, f"{name} has {right} {things}.", thought, right


def table_task():
    keys = R.sample(w.TOYS + w.FOODS + w.ANIMALS, R.randint(2, 8))
    values, form = [str(R.randrange(10, 100)) for _ in keys], one(["{} = {}", "{}: {}", "{} costs {}"])
    lines = [form.format(*pair) for pair in zip(keys, values)]
    i = R.randrange(len(keys))
    question = "Here is a list.\n" + "\n".join(lines) + f"\nWhat is the value of {keys[i]}?"
    reply = answer(f"The value of {keys[i]} is here:\n{lines[i]}", f"I look for {keys[i]}.")
    return render("table", [(question, reply)], R.random() < 0.2, values[i], one(w.SYSTEM))


def some_words():
    return [one(w.TOYS + w.FOODS + w.ANIMALS + w.COLORS) for _ in range(R.randint(2, 5))]


def text_task():
    words = some_words()
    line = " ".join(words)
    question, reply, right = one([(f"Repeat: {line}", f"Here it is: {line}", line)] * 3 + [
        (f"Write these words in reverse order: {line}", f"In reverse order: {' '.join(words[::-1])}",
         " ".join(words[::-1])),
        (f"What is the first word of: {line}", f"The first word is {words[0]}", words[0]),
        (f"What is the last word of: {line}", f"The last word is {words[-1]}", words[-1])])
    return render("text", [(question, answer(reply, "Word by word."))], R.random() < 0.15, right, one(w.SYSTEM))


def reverse_task():
    words = some_words()
    right = " ".join(words[::-1])
    return render("reverse", [(f"Write these words in reverse order: {' '.join(words)}",
                               answer(f"In reverse order: {right}", "Word by word."))], R.random() < 0.15, right,
                  one(w.SYSTEM))


def problem_task():
    question, text, thought, right = word_problem()
    return render("problem", [(question, answer(text, thought))], R.random() < 0.6, str(right), one(w.SYSTEM))


def priced(n):
    """-> so many words with numbers, and how they are asked for as JSON"""
    value = {key: R.randrange(100) for key in R.sample(w.FOODS + w.TOYS, n)}
    return value, "Write as JSON: " + ", ".join(f"{key} {number}" for key, number in value.items())


def object_task():
    value, question = priced(R.randint(3, 4))
    right = json.dumps(value)
    return render("object", [(question, answer(right, f"Keys: {', '.join(value)}."))], R.random() < 0.2, right,
                  one(w.SYSTEM))


def json_task():
    person = Person()
    known = {"name": person.name, "age": R.randrange(3, 90), "city": one(w.CITIES), "pet": one(w.ANIMALS)}
    told = {"name": f"The name is {person.name}.", "age": f"{capital(person.she)} is {known['age']} years old.",
            "city": f"{capital(person.she)} lives in {known['city']}.",
            "pet": f"{capital(person.she)} has {a(known['pet'])}."}
    if R.random() < 0.3:
        value, question = priced(R.randint(1, 4))
    else:
        keys = R.sample(list(known), R.randint(1, 4))
        value = {key: known[key] for key in known if key in keys}
        question = f"Give this as JSON with the keys {', '.join(value)}. " + " ".join(
            told[key] for key in R.sample(list(told), 4))
    right = json.dumps(value)
    reply = answer(right, f"Keys: {', '.join(value)}.")
    return render("json", [(question, reply)], R.random() < 0.2, right, one(w.SYSTEM))


def secret(numbers=0.0):
    """-> sentence, question, answer; numbers: share of secret numbers over a fourth"""
    k, name, city, month = R.randrange(4), Person().name, one(w.CITIES), one(w.MONTHS)
    if numbers and R.random() < numbers:
        k = 0
    if k == 0:
        thing, right = f"{one(w.COLORS)} {one(w.TOYS)}", str(R.randrange(1000, 10000))
        return f"The secret number of the {thing} is {right}.", f"What is the secret number of the {thing}?", right
    if k == 1:
        return (f"The friend of {name} the pilot lives in {city}.",
                f"Where does the friend of {name} the pilot live?", city)
    if k == 2:
        right = f"{one(w.COLORS)} {one(w.ANIMALS)}"
        return f'The password for {city} is "{right}".', f"What is the password for {city}?", right
    right = str(R.randrange(10, 100))
    return (f"In {month} the doctor counted {right} {plural(one(w.ANIMALS))}.",
            f"How many animals did the doctor count in {month}?", right)


def needle_task(n_tokens=None, n_questions=1, numbers=0.0):
    """Sentences in about so many tokens of stories (four characters a token), asked for at the end."""
    texts, length, secrets = [], 0, {}
    wanted = 4 * (n_tokens or one([40, 80, 150, 250, 350]))
    while length < wanted:
        texts.append(story()[0])
        length += len(texts[-1])
    while len(secrets) < n_questions:
        sentence, question, right = secret(numbers)
        secrets[question] = sentence, right
    for sentence, _ in secrets.values():
        texts.insert(R.randint(0, len(texts)), sentence)
    turns = [(question, answer(sentence, "I look for it in the text.")) for question, (sentence, _) in secrets.items()]
    turns[0] = "Read this text carefully.\n\n" + "\n\n".join(texts) + "\n\n" + turns[0][0], turns[0][1]
    right = list(secrets.values())[-1][1]
    return render("needle", turns, R.random() < 0.25, right, one(w.SYSTEM))


def needles_task():
    """As it is trained: often several questions about one text."""
    return needle_task(n_questions=one([1, 2, 3, 4]))


# ---- tools --------------------------------------------------------------------------------------------------------

def schema(name, description, **parameters):
    properties = {key: {"type": kind} for key, kind in parameters.items()}
    return {"name": name, "description": description,
            "parameters": {"type": "object", "properties": properties, "required": list(properties)}}


TOOLS = {tool["name"]: tool for tool in (
    schema("read_file", "Read a file", path="string"), schema("list_dir", "List a directory", path="string"),
    schema("bash", "Run a shell command", command="string"),
    schema("get_weather", "Weather of a city", city="string", days="integer"),
    schema("write_file", "Write a file", path="string", content="string"),
    schema("add", "Add two numbers", a="number", b="number"))}


def call(question, thought, name, arguments, result, after, reply):
    """Both turns of a tool call, and what the last answer must contain."""
    return [(question, answer(think=thought, calls=[(name, arguments)])), ([result], answer(reply, after))]


def read_turns(path):
    body = one([secret()[0], f"buy {plural(one(w.FOODS))} and {plural(one(w.FOODS))}",
                f"{one(w.TOYS)} = {R.randrange(100)}", story()[0].split(". ")[0] + "."])
    question = one([f"What is in {path}?", f"Read the file {path}.", f"Show me {path}.", f"Please open {path}"])
    return body, call(question, f"I need to read {path}.", "read_file", {"path": path}, body, "I have the content.",
                      f"The file {path} says: {body}")


def list_turns(folder):
    files = R.sample(w.FILES, R.randint(1, 4))
    count = "is 1 file" if len(files) == 1 else f"are {len(files)} files"
    question = one([f"What is in the directory {folder}?", f"List the files in {folder}.",
                    f"Which files are in {folder}?"])
    return ", ".join(files), call(question, f"I need to list {folder}.", "list_dir", {"path": folder},
                                  "\n".join(files), f"There are {len(files)} files.",
                                  f"There {count} in {folder}: {', '.join(files)}.")


def shell_turns(path):
    wish, command, results = one(w.COMMANDS)
    fill = {"f": path, "n": R.randrange(1, 29), "day": one(w.DAYS), "month": one(w.MONTHS)}
    wish, command, result = (text.format_map(fill) for text in (wish, command, one(results)))
    question = one([f"Please {wish}.", capital(wish) + ".", f"Can you {wish}?"])
    reply = f"The result is: {result}" if result else "Done."
    return result or "Done.", call(question, f"The command is: {command}", "bash", {"command": command}, result,
                                   "It worked.", reply)


def weather_turns():
    city, days, sky, degrees = one(w.CITIES), R.randrange(1, 8), one(w.WEATHER), R.randrange(-5, 36)
    question = (f"What is the weather in {city}?" if days == 1 else
                f"How will the weather be in {city} in the next {days} days?")
    result = json.dumps({"city": city, "sky": sky, "degrees": degrees})
    return f"{sky} with {degrees}", call(question, f"I ask for the weather of {city}.", "get_weather",
                                         {"city": city, "days": days}, result, f"{sky}, {degrees} degrees.",
                                         f"In {city} it is {sky} with {degrees} degrees.")


def write_turns(path):
    text = one([f"buy {a(one(w.FOODS))}", secret()[0], f"call {Person().name} at {R.randrange(1, 12)}"])
    question = one([f'Write "{text}" to {path}.', f"Save this in {path}: {text}"])
    return path, call(question, f"I write the text to {path}.", "write_file", {"path": path, "content": text}, "ok",
                      "Saved.", f"I saved it in {path}.")


def add_turns():
    x, y = R.randrange(1000), R.randrange(1000)
    return str(x + y), call(f"Use the tool to add {x} and {y}.", f"I call add with {x} and {y}.", "add",
                            {"a": x, "b": y}, str(x + y), f"The tool says {x + y}.", f"{x} + {y} = {x + y}.")


def one_call(name):
    """The turns of one call of this tool, and what its last answer must contain."""
    file, folder = one(w.FILES), one(w.FOLDERS)
    path = file if folder == "." or R.random() < 0.5 else f"{folder}/{file}"
    makers = {"read_file": lambda: read_turns(path), "write_file": lambda: write_turns(path),
              "list_dir": lambda: list_turns(folder), "bash": lambda: shell_turns(path),
              "get_weather": weather_turns, "add": add_turns}
    return makers[name]()


def tool_task():
    """Several calls in one conversation, because the offer of tools before them is long and always the same."""
    offered = R.sample(list(TOOLS), R.randint(1, 4))
    turns, check = [], ""
    for _ in range(R.randint(1, 5)):
        if R.random() < 0.8:
            check, more = one_call(one(offered))
        else:
            more = [without_tool()]
            check = more[0][1]["text"]
        turns += more
    if turns[-1][1]["text"] and isinstance(turns[-1][0], list) and R.random() < 0.4:
        turns, check = turns[:-1], ""       # the call itself is the last turn
    tools = [TOOLS[name] for name in offered]
    return render("tool", turns, R.random() < 0.5, check, one(["", "", "You are a helpful assistant."]), tools)


def without_tool():
    question, reply = fact_turn()
    return question, answer(reply["text"], reply["think"] + " No tool is needed.")


KINDS = {"chat": (chat_task, 2.5), "math": (math_task, 6), "story": (story_task, 4.5), "memory": (memory_task, 1),
         "text": (text_task, 4), "table": (table_task, 1.5), "json": (json_task, 5.5), "tool": (tool_task, 3),
         "needle": (needles_task, 2)}
# Parts of kinds, to be trained more often; they are measured with their kinds.
EXERCISES = {"reverse": (reverse_task, 1.5), "problem": (problem_task, 1.5), "object": (object_task, 2)}


def sample(kinds=None):
    kinds = list(kinds or KINDS)
    makers = {**KINDS, **EXERCISES}
    return makers[R.choices(kinds, [makers[kind][1] for kind in kinds])[0]][0]()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", help="separated by commas")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    seed(options.seed)
    for _ in range(options.n):
        task = sample(options.kinds and options.kinds.split(","))
        print(json.dumps(task, ensure_ascii=False) if options.json else
              f"--- {task['kind']}, check {task['check']!r}\n{task['prompt']}\033[1m{task['completion']}\033[0m\n")


if __name__ == "__main__":
    main()
