"""The closed word table of CHAIR for the 80 classes of COCO, as data.

Source: LisaAnne/Hallucination, ``data/synonyms.txt`` and the double-word list of ``utils/chair.py`` (README: BSD
2-Clause). Please cite A. Rohrbach, L. A. Hendricks, K. Burns, T. Darrell and K. Saenko, "Object Hallucination in
Image Captioning", EMNLP 2018, when you report CHAIR.

Kept as published, for equal scores: the spellings televison, solider, phon and knive; ``iPhone``, which
lower-cased text never matches; and the blank (shown as ␣) before two entries, which never match
either. Only duplicates are gone. One line per class, further lines indented: the class, then its other words.
"""

COCO_CLASSES = """\
person: girl, boy, man, woman, kid, child, chef, baker, people, adult, rider, children, baby, worker,
  passenger, sister, biker, policeman, cop, officer, lady, cowboy, bride, groom, male, female, guy,
  traveler, mother, father, gentleman, pitcher, player, skier, snowboarder, skater, skateboarder, foreigner,
  caller, offender, coworker, trespasser, patient, politician, soldier, grandchild, serviceman, walker,
  drinker, doctor, bicyclist, thief, buyer, teenager, student, camper, driver, solider, hunter, shopper,
  villager
bicycle: bike, unicycle, minibike, trike
car: automobile, van, minivan, sedan, suv, hatchback, cab, jeep, coupe, taxicab, limo, taxi
motorcycle: scooter, ␣motor bike, motor cycle, motorbike, moped
airplane: jetliner, plane, air plane, monoplane, aircraft, jet, airbus, biplane, seaplane
bus: minibus, trolley
train: locomotive, tramway, caboose
truck: pickup, lorry, hauler, firetruck
boat: ship, liner, sailboat, motorboat, dinghy, powerboat, speedboat, canoe, skiff, yacht, kayak, catamaran,
  pontoon, houseboat, vessel, rowboat, trawler, ferryboat, watercraft, tugboat, schooner, barge, ferry,
  sailboard, paddleboat, lifeboat, freighter, steamboat, riverboat, battleship, steamship
traffic light: street light, traffic signal, stop light, streetlight, stoplight
fire hydrant: hydrant
stop sign:
parking meter:
bench: pew
bird: ostrich, owl, seagull, goose, duck, parakeet, falcon, robin, pelican, waterfowl, heron, hummingbird,
  mallard, finch, pigeon, sparrow, seabird, osprey, blackbird, fowl, shorebird, woodpecker, egret,
  chickadee, quail, bluebird, kingfisher, buzzard, willet, gull, swan, bluejay, flamingo, cormorant, parrot,
  loon, gosling, waterbird, pheasant, rooster, sandpiper, crow, raven, turkey, oriole, cowbird, warbler,
  magpie, peacock, cockatiel, lorikeet, puffin, vulture, condor, macaw, peafowl, cockatoo, songbird
cat: kitten, feline, tabby
dog: puppy, beagle, pup, chihuahua, schnauzer, dachshund, rottweiler, canine, pitbull, collie, pug, terrier,
  poodle, labrador, doggie, doberman, mutt, doggy, spaniel, bulldog, sheepdog, weimaraner, corgi, cocker,
  greyhound, retriever, brindle, hound, whippet, husky
horse: colt, pony, racehorse, stallion, equine, mare, foal, palomino, mustang, clydesdale, bronc, bronco
sheep: lamb, ram, goat, ewe
cow: cattle, oxen, ox, calf, holstein, heifer, buffalo, bull, zebu, bison
elephant:
bear: panda
zebra:
giraffe:
backpack: knapsack
umbrella:
handbag: wallet, purse, briefcase
tie: bow, bow tie
suitcase: suit case, luggage
frisbee:
skis: ski
snowboard:
sports ball: ball
kite:
baseball bat:
baseball glove:
skateboard:
surfboard: longboard, skimboard, shortboard, wakeboard
tennis racket: racket
bottle:
wine glass:
cup:
fork:
knife: pocketknife, knive
spoon:
bowl: container
banana:
apple:
sandwich: burger, sub, cheeseburger, hamburger
orange:
broccoli:
carrot:
hot dog:
pizza:
donut: doughnut, bagel
cake: ␣cheesecake, cupcake, shortcake, coffeecake, pancake
chair: seat, stool
couch: sofa, recliner, futon, loveseat, settee, chesterfield
potted plant: houseplant
bed:
dining table: table, desk
toilet: urinal, commode, lavatory, potty
tv: monitor, televison, television
laptop: computer, notebook, netbook, lenovo, macbook, laptop computer
mouse:
remote:
keyboard:
cell phone: mobile phone, phone, cellphone, telephone, phon, smartphone, iPhone
microwave:
oven: stovetop, stove, stove top oven
toaster:
sink:
refrigerator: fridge, freezer
book:
clock:
vase:
scissors:
teddy bear: teddybear
hair drier: hairdryer
toothbrush:
"""

# Pairs that are one word; "a -> b" reads the pair a as the word b. "home plate" and "train track" are no classes:
# they keep "plate" and "train" from being counted. "baby animal" swallows a "baby" that is no person.
COCO_DOUBLE_WORDS = """\
motor bike
motor cycle
air plane
traffic light
street light
traffic signal
stop light
fire hydrant
stop sign
parking meter
suit case
sports ball
baseball bat
baseball glove
tennis racket
wine glass
hot dog
cell phone
mobile phone
teddy bear
hair drier
potted plant
laptop computer
stove top oven
home plate
train track
bow tie -> tie
toilet seat -> toilet
wine glas -> wine glass
baby bird -> bird
baby cat -> cat
baby dog -> dog
baby horse -> horse
baby sheep -> sheep
baby cow -> cow
baby elephant -> elephant
baby bear -> bear
baby zebra -> zebra
baby giraffe -> giraffe
baby animal -> animal
baby cub -> cub
adult bird -> bird
adult cat -> cat
adult dog -> dog
adult horse -> horse
adult sheep -> sheep
adult cow -> cow
adult elephant -> elephant
adult bear -> bear
adult zebra -> zebra
adult giraffe -> giraffe
adult animal -> animal
adult cub -> cub
passenger jet -> jet
passenger train -> train
"""

# A caption with both words loses every mention of the first: the seat of a toilet is no chair.
COCO_DROPPED_BESIDE = {"seat": "toilet"}
