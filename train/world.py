"""The small world that ds4-tiny knows: its words, its facts, and the plots of its stories. Data alone; tasks.py draws.

In templates a tuple is a choice of one, and names in braces are filled from the scene (see tasks.Scene).
"""

GIRLS = "Lily Mia Anna Sara Lucy Emma Nina Rosa Zoe Ella Kate Amy Giulia Maya Ruth Clara".split()
BOYS = "Tom Ben Max Tim Sam Leo Jack Finn Luca Omar Noah Paul Marco Adam Hugo Peter".split()
ANIMALS = ("cat dog rabbit fox bear mouse duck frog owl bird turtle squirrel horse hedgehog pig lamb goat hen").split()
COLORS = "red blue green yellow white black brown pink orange purple grey golden silver".split()
TOYS = ["toy car" if word == "car" else word for word in
        "ball kite car doll drum book hat scarf boat puzzle robot bell lamp ring key map cup box coin whistle".split()]
FOODS = "apple cake pear cookie sandwich banana carrot pie plum peach muffin orange bun".split()
PLACES = "park garden forest beach market farm school river hill village meadow library lake".split()
SPOTS = ["under the big tree", "behind the old wall", "near the pond", "under the bed", "in the tall grass",
         "behind the door", "next to the river", "in a deep hole", "under a bench", "inside a basket",
         "on top of a rock", "in the kitchen", "under the stairs"]
MOODS = ["happy", "proud", "glad", "cheerful", "full of joy"]
KIN = "mother father grandma grandpa brother sister aunt uncle".split()
WEATHER = "sunny rainy windy cold warm cloudy snowy".split()
CITIES = ("Rome Paris Milan London Berlin Madrid Tokyo Oslo Lisbon Catania Palermo Vienna Dublin Athens Prague Naples "
          "Turin Boston Cairo Lima").split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
TRAITS = "kind curious brave shy clever quiet cheerful gentle".split()
SKILLS = ["swim", "ride a bike", "sing", "paint", "climb", "dance", "read", "fly a kite", "cook", "count"]
BUILDINGS = "house bridge boat tower snowman castle nest swing".split()
TROUBLES = [("stuck in a tree", "reached up and carried it down"), ("caught in a net", "cut the net with care"),
            ("in the cold water", "pulled it out with a long stick"), ("lost in the fog", "showed it the way home")]
STORMS = [("rain", "It rained all day", "an umbrella"), ("snow", "It snowed all night", "a warm coat"),
          ("wind", "The wind was very strong", "a heavy hat")]

OPENINGS = [("Once upon a time there was a little {what} named {N}.", "{N} was {a_trait} {what} who lived near {P}.",
             "Once upon a time there was a small {what} named {N}.",
             "In a house near {P} lived {a_trait} {what} called {N}.", "Once there was {a_what}. {Her} name was {N}."),
            ("{N} loved to play in {P} every day.", "{She} was very {trait} and had many friends.",
             "Every morning {N} went to {P}.", "{N} lived with {her} {kin} in a little house.",
             "{She} liked {foods} more than anything.")]
ENDINGS = ("", "", "The end.", "And they all lived happily.", "{N} slept well that night.", "What a day!",
           "Always be kind to your friends.")
# Each plot: its sentences, and questions about it with their answers, alone and as a sentence.
PLOTS = [
    ([("One day {N} could not find {her} {obj}.", "One {sky} day {N} lost {her} {obj}."),
      ("{She} looked in the kitchen and in the yard, but it was not there.",
       "{She} looked everywhere and began to cry.", "{She} felt very sad and asked everyone about it."),
      ("Then {F} the {fwhat} came by.", "{Her} friend {F}, {a_fwhat}, wanted to help."),
      ('"Do not worry," said {F}. "We will look together."', '"I can help you," {F} said. "Let us look again."',
       '"Where did you play yesterday?" asked {F}.'),
      ("They looked for a long time, and at last they found the {toy} {spot}.",
       "They looked all morning, and at last they found the {toy} {spot}.",
       "They looked until noon, and at last they found the {toy} {spot}."),
      ("{N} was so {mood} that {she} gave {F} a big hug.", '"Thank you, {F}!" said {N}. "You are a good friend."')],
     [("What did {N} lose?", "{her} {obj}", "{N} lost {her} {obj}"),
      ("Where was the {toy}?", "{spot}", "The {toy} was {spot}"),
      ("Who helped {N}?", "{F}", "{F} helped {N}")]),
    (["One day {N} had a big {food}.",
      ("{F} the {fwhat} was hungry and had nothing to eat.", "Then {she} saw {F}, {a_fwhat} who looked hungry."),
      ('"May I have some?" asked {F}.', "{F} looked at the {food} and said nothing."),
      ("{N} thought for a moment. Then {she} cut the {food} in two.",
       "At first {N} wanted to keep it. But {she} saw how sad {F} was."),
      '"Here, take half," said {N}.', "They sat {spot} and ate together.",
      ("It tasted even better that way.", "It is nice to share with a friend.",
       "From that day on, {N} and {F} shared everything.")],
     [("What did {N} share?", "{a_food}", "{N} shared {a_food}"),
      ("Who was hungry?", "{F}", "{F} was hungry"),
      ("Where did they eat?", "{spot}", "They ate {spot}")]),
    (["{N} wanted to learn to {skill}, but it was hard.",
      ('{Her} {kin} said, "Try again tomorrow."', '{Her} {kin} said, "Go slowly and do not give up."',
       '{Her} {kin} said, "Nobody learns in one day."'),
      "So {N} went to {P} and tried again and again.",
      ("The first time {she} made a mistake. The second time it was a little better.",
       "Some {animals} laughed, but {N} did not stop."),
      ("After three days, {N} could {skill} very well.", "After a week, {N} could {skill} very well.",
       "After many days, {N} could {skill} very well."),
      ("{Her} {kin} clapped and smiled.", "{N} was {mood}.", "Now {she} teaches {F} how to {skill}.")],
     [("What did {N} learn?", "to {skill}", "{N} learned to {skill}"),
      ("Who gave advice to {N}?", "{Her} {kin}", "{Her} {kin} gave advice to {N}")]),
    (["One {weather} morning {N} heard a small voice.",
      ("It was a little {animal}, and it was {trouble}.", "It was a young {animal}, and it was {trouble}.",
       "It was a tiny {animal}, and it was {trouble}."),
      ('"Help me, please!" it said.', "It was afraid and cold."),
      ("{N} was afraid too, but {she} wanted to help.", "{N} did not wait."), "{She} {rescue}.",
      'The {animal} was safe. "Thank you," it said. "What is your name?"', '"I am {N}," {she} said.',
      ("After that they met every day and became best friends.", "The {animal} gave {him} {a_col} flower as a gift.",
       "The {animal} gave {him} {a_col} feather as a gift.", "The {animal} gave {him} {a_col} stone as a gift.")],
     [("Which animal needed help?", "{a_animal}", "The animal was {a_animal}"),
      ("What was wrong with the {animal}?", "It was {trouble}", "It was {trouble}")]),
    (["One day {N} broke the {obj} of {her} {kin}.",
      ("{She} was scared and hid it {spot}.", "{She} did not know what to do, so {she} hid it {spot}."),
      'In the evening {her} {kin} asked, "Where is my {toy}?"',
      ("{N} looked at the floor. Then {she} told the truth.",
       '{N} felt bad all day, so {she} said, "I broke it. I am sorry."'),
      ('"Thank you for telling me," said {her} {kin}. "We can fix it together."',
       '{Her} {kin} was not angry. "It is good to tell the truth," said the {kin}.'),
      "They worked until the {toy} was as good as new."],
     [("What did {N} break?", "the {obj}", "{N} broke the {obj}"),
      ("Where did {N} hide it?", "{spot}", "{N} hid it {spot}")]),
    (["It was the birthday of {F} the {fwhat}.", "{N} wanted to give {F} something special.",
      ("{She} had only two coins.", "{She} had only three coins.", "{She} had only ten coins."),
      "At {P} {she} saw {a_obj}.", ('"How much is it?" asked {N}.', "The seller smiled at {him}."),
      ('"For you, it is two coins," the seller said.', '"For you, it is one coin," the seller said.'),
      "{N} put the {toy} in a box and gave it to {F}.",
      ('{F} jumped with joy. "I love it!"', '"This is the best gift," said {F}.')],
     [("Whose birthday was it?", "{F}", "It was the birthday of {F}"),
      ("What did {N} buy?", "{a_obj}", "{N} bought {a_obj}")]),
    (["One day {N} found an old map {spot}.", '"It shows a treasure in {P}!" said {F}, {her} friend.',
      ("{N} and {F} took a shovel and went there.", "{N} and {F} took a lamp and went there.",
       "{N} and {F} took a rope and went there."),
      ("They walked over a bridge and through the tall grass.", "The way was long, but they sang a song.",
       "It was dark, but they were not afraid."),
      "There they dug and found a box. In the box was {a_obj}.",
      ('"We are rich!" said {F}, and they both laughed.',
       "They took it home and told everyone about their adventure.")],
     [("Where was the map?", "{spot}", "The map was {spot}"),
      ("What was in the box?", "{a_obj}", "In the box was {a_obj}"),
      ("Who went with {N}?", "{F}", "{N} went with {F}")]),
    (["{N} wanted to go to {P}, but there was {storm}.", "{stormy}.",
      ("{N} sat at the window and was bored.", "{N} sat at the window and was sad."),
      'Then {her} {kin} gave {him} {cover} and said, "Come, let us go out together."',
      ("They jumped over every puddle.", "They laughed and ran.", "They met {F} the {fwhat} on the way."),
      ("At home they drank hot milk and ate {a_food}.", "At home they drank warm tea and ate {a_food}."),
      ("It was a good day after all.", "It was a lovely day after all.", "It was a wonderful day after all.")],
     [("Where did {N} want to go?", "to {P}", "{N} wanted to go to {P}"),
      ("What was the weather like?", "{stormy}", "{stormy}"),
      ("What did the {kin} give?", "{cover}", "The {kin} gave {him} {cover}")]),
    (["{N} and {F} wanted to build a {building} in {P}.", "{N} brought wood and {F} brought {col} paint.",
      ("They worked from morning to evening.", "It fell down two times, but they did not give up.",
       "It was hard work and they were tired."),
      ("At last the {building} was ready. It was {col} and very tall.",
       "At last the {building} was ready. It was {col} and very strong.",
       "At last the {building} was ready. It was {col} and very beautiful."),
      ("All their friends came to see it.", '"We did it together," said {F}.'),
      ("They were very proud.", "It is easier to build with a friend.")],
     [("What did they build?", "a {building}", "They built a {building}"),
      ("What colour was the {building}?", "{col}", "The {building} was {col}"),
      ("What did {F} bring?", "{col} paint", "{F} brought {col} paint")]),
    (["One night {N} heard a noise.",
      ("It sounded like a monster.", "It came from the dark garden.", "It was something {spot}."),
      "{She} was afraid and called {her} {kin}.", "They took a lamp and went to look.",
      "It was only {F} the {fwhat}, who was looking for {a_food}!",
      ("Everyone laughed.", "{N} laughed and was not afraid any more."),
      "They gave {F} the {food} and went back to bed."],
     [("Who made the noise?", "{F}", "The noise was made by {F}"),
      ("What was {F} looking for?", "{a_food}", "{F} was looking for {a_food}")]),
]

ME = "ds4-tiny"
ABOUT = [
    (("Who are you?", "Tell me about yourself.", "Introduce yourself."),
     f"I am {ME}, a very small language model with the architecture of DeepSeek V4 Flash."),
    (("What are you?", "What kind of model are you?", "Which model are you?"),
     f"I am {ME}, a tiny test model. I have hyper-connections, compressed attention and a mixture of experts, like my "
     "big brother."),
    (("What is your name?", "Do you have a name?", "Tell me your name."), f"My name is {ME}."),
    (("How big are you?", "How many parameters do you have?", "How large are you?"),
     "I am tiny: about ten million parameters. The big DeepSeek V4 Flash has 284 billion."),
    (("What can you do?", "Help", "How can you help me?", "What are you good at?"),
     "I can talk a little, tell short stories, add small numbers, remember things, write JSON and call tools."),
    (("Why do you exist?", "What are you for?", "Why are you so small?"),
     "I exist so that the engine can be tested on any machine in a few seconds."),
    (("What runs you?", "What program is this?", "Where do you run?"),
     "I run on a small inference engine written in C."),
    (("Who made you?", "Who trained you?", "Where do you come from?"),
     "I was trained from nothing in two hours on two processor cores."),
    (("What is attention?", "Explain attention."), "Attention lets each token look back at the tokens before it."),
    (("What is a token?", "Explain tokens."), "A token is a small piece of text, like a word or a part of a word."),
    (("What is an expert?", "What is a mixture of experts?"),
     "An expert is a small network. For each token only a few experts are used."),
    (("What is a hyper-connection?", "What are hyper-connections?"),
     "It carries four copies of the hidden state and mixes them in every layer."),
    (("What is quantisation?", "What is quantization?"),
     "It stores each weight in fewer bits, so that the model needs less memory."),
    (("What is a KV cache?", "What is the KV cache?"),
     "It keeps what was computed for earlier tokens, so that it need not be computed again."),
    (("What is speculative decoding?", "What is a draft?"),
     "A draft guesses the next tokens and the model checks them all at once."),
    (("Can you replace a big model?", "Are you smart?", "Are you as good as the big model?"),
     "No. I am only for tests. I make many mistakes."),
    (("Are you a human?", "Are you a person?", "Are you real?"), "No, I am a small computer program."),
    (("Do you know everything?", "What do you know?"), "I know only a few simple things."),
]
UNKNOWN = [
    "What is the meaning of life?", "Who won the game last night?", "Write a program that sorts a list.",
    "Explain quantum physics.", "How do I fix my bike?", "What is the price of gold?", "Who is the president?",
    "What time is it?", "Write a letter to my boss.", "How does a car work?", "What should I eat today?",
    "Translate this page.", "Plan a trip to Rome for me.", "Write a poem about the sea.", "How old is the universe?",
    "Who wrote this book?", "What is the best film?", "Can you drive a car?", "Why is the sky blue?",
    "How far is the moon?", "What is the news today?", "How do computers work?", "Write a song for my friend.",
    "Prove that there is no largest prime number.", "What is in this picture?", "How do I cook rice?",
    "What will the weather be tomorrow?", "Who discovered America?", "Fix the error in my code.",
    "How many people live in China?", "What is the square root of 1000?", "Give me advice about money.",
    "What happened in 1969?", "Summarise this article.", "Which phone should I buy?", "How do planes fly?"]
DO_NOT_KNOW = ("I do not know that. I am only a very small model.",
               "Sorry, that is too hard for me. I am very small.")
TALK = [
    (("Hello!", "Hi!", "Hi there", "Good morning!", "Hey", "Hello"),
     ("Hello! How can I help you?", "Hi! What can I do for you?", "Hello! It is nice to meet you.")),
    (("How are you?", "How do you do?", "How's it going?"),
     ("I am fine, thank you. And you?", "Very well, thanks! How are you?")),
    (("Thank you!", "Thanks a lot.", "Thanks!"),
     ("You are welcome!", "My pleasure.", "You are welcome. Ask me again any time.")),
    (("Goodbye!", "Bye", "See you tomorrow."), ("Goodbye! Have a nice day.", "Bye! See you soon.")),
    (("Ciao!", "Buongiorno!", "Salve"), ("Ciao! Come posso aiutarti?", "Buongiorno! Che cosa posso fare per te?")),
    (("Come stai?", "Come va?"), ("Sto bene, grazie. E tu?", "Molto bene, grazie!")),
    (("Chi sei?", "Come ti chiami?"), (f"Mi chiamo {ME} e sono un modello molto piccolo.",
                                       f"Sono {ME}, un piccolo modello di prova.")),
    (("Grazie!", "Grazie mille"), ("Prego!", "Di niente!")),
    (("I am sad.", "I feel bad today."), ("I am sorry to hear that. Do you want to hear a story?",
                                          "I am sorry. I hope tomorrow will be better.")),
    (("I am happy today!", "Today is a good day."), ("That is great! I am glad to hear it.",
                                                     "Wonderful! Enjoy your day.")),
    (("Tell me a joke.", "Make me laugh."), ("Why did the hen cross the road? To get to the other side!",
                                             "What is brown and sticky? A stick!")),
]


def pairs(text):
    return dict(pair.split("=") for pair in text.split(" "))


CAPITALS = pairs("Italy=Rome France=Paris Germany=Berlin Spain=Madrid Japan=Tokyo Norway=Oslo Portugal=Lisbon "
                 "Austria=Vienna Ireland=Dublin Greece=Athens Egypt=Cairo Peru=Lima Poland=Warsaw Sweden=Stockholm "
                 "Finland=Helsinki Denmark=Copenhagen China=Beijing India=Delhi Canada=Ottawa Cuba=Havana")
SOUNDS = pairs("cat=meow dog=woof cow=moo duck=quack sheep=baa horse=neigh frog=ribbit owl=hoot pig=oink bee=buzz "
               "lion=roar hen=cluck")
OPPOSITES = pairs("big=small hot=cold day=night up=down old=young fast=slow happy=sad open=closed full=empty hard=soft "
                  "wet=dry light=dark high=low left=right good=bad long=short early=late rich=poor strong=weak "
                  "clean=dirty")
ITALIAN = pairs("red=rosso blue=blu green=verde yellow=giallo white=bianco black=nero cat=gatto dog=cane horse=cavallo "
                "bird=uccello fish=pesce house=casa water=acqua bread=pane milk=latte sun=sole moon=luna book=libro "
                "friend=amico mother=madre father=padre apple=mela tree=albero flower=fiore sea=mare one=uno two=due "
                "three=tre four=quattro five=cinque six=sei seven=sette eight=otto nine=nove ten=dieci")
SYSTEM = ["", "", "", "You are a helpful assistant.", "You are a helpful assistant",
          "You are a small and friendly assistant.", "Answer in one short sentence."]

FILES = ("notes.txt todo.md main.c data.csv readme.md list.txt config.json log.txt test.py plan.md Makefile "
         "story.txt").split()
FOLDERS = ["/tmp", "src", "docs", "/home/tom", "tests", "/var/log", "tools", ".", "data/old"]
# What is asked, the command, its possible outputs ({f} a file, {n} a number below 100).
COMMANDS = [("show the current directory", "pwd", ("/tmp", "/home/tom", "/work")),
            ("count the lines of {f}", "wc -l {f}", ("{n} {f}",)),
            ("show the date", "date", ("{day} {n} {month}",)),
            ("say who I am", "whoami", ("root", "tom", "anna")), ("remove {f}", "rm {f}", ("",)),
            ("show the free disk space", "df -h /", ("{n}G free",)), ("copy {f} to /tmp", "cp {f} /tmp", ("",)),
            ("show how long the machine is up", "uptime", ("up {n} days",))]
