"""Word tables of the small world: common knowledge. Lines or commas separate the entries."""

# A line of a table is as long as its entries.
# ruff: noqa: E501

# country | capital | continent | currency; "-" where there is no single simple answer
COUNTRIES = """
France | Paris | Europe | euro
Germany | Berlin | Europe | euro
Italy | Rome | Europe | euro
Spain | Madrid | Europe | euro
Portugal | Lisbon | Europe | euro
Greece | Athens | Europe | euro
Austria | Vienna | Europe | euro
Belgium | Brussels | Europe | euro
Ireland | Dublin | Europe | euro
Finland | Helsinki | Europe | euro
Norway | Oslo | Europe | krone
Sweden | Stockholm | Europe | krona
Denmark | Copenhagen | Europe | krone
Iceland | Reykjavik | Europe | krona
Poland | Warsaw | Europe | zloty
Hungary | Budapest | Europe | forint
Romania | Bucharest | Europe | leu
Bulgaria | Sofia | Europe | -
Croatia | Zagreb | Europe | euro
Serbia | Belgrade | Europe | dinar
Slovenia | Ljubljana | Europe | euro
Slovakia | Bratislava | Europe | euro
Ukraine | Kyiv | Europe | hryvnia
Belarus | Minsk | Europe | -
Latvia | Riga | Europe | euro
Lithuania | Vilnius | Europe | euro
Estonia | Tallinn | Europe | euro
Albania | Tirana | Europe | lek
Malta | Valletta | Europe | euro
Moldova | Chisinau | Europe | leu
Montenegro | Podgorica | Europe | euro
Switzerland | - | Europe | franc
Russia | Moscow | - | rouble
Japan | Tokyo | Asia | yen
China | Beijing | Asia | yuan
India | New Delhi | Asia | rupee
Pakistan | Islamabad | Asia | rupee
Nepal | Kathmandu | Asia | rupee
Bangladesh | Dhaka | Asia | taka
Thailand | Bangkok | Asia | baht
Vietnam | Hanoi | Asia | dong
Cambodia | Phnom Penh | Asia | riel
Laos | Vientiane | Asia | kip
Mongolia | Ulaanbaatar | Asia | tugrik
Bhutan | Thimphu | Asia | ngultrum
Iran | Tehran | Asia | rial
Iraq | Baghdad | Asia | dinar
Jordan | Amman | Asia | dinar
Lebanon | Beirut | Asia | pound
Syria | Damascus | Asia | pound
Oman | Muscat | Asia | rial
Qatar | Doha | Asia | riyal
Saudi Arabia | Riyadh | Asia | riyal
Afghanistan | Kabul | Asia | afghani
Uzbekistan | Tashkent | Asia | som
Turkmenistan | Ashgabat | Asia | manat
Tajikistan | Dushanbe | Asia | somoni
Kyrgyzstan | Bishkek | Asia | som
Malaysia | Kuala Lumpur | Asia | ringgit
South Korea | Seoul | Asia | won
North Korea | Pyongyang | Asia | won
Turkey | Ankara | - | lira
Armenia | Yerevan | - | dram
Georgia | Tbilisi | - | lari
Azerbaijan | Baku | - | manat
Egypt | Cairo | - | pound
Kenya | Nairobi | Africa | shilling
Uganda | Kampala | Africa | shilling
Ethiopia | Addis Ababa | Africa | birr
Ghana | Accra | Africa | cedi
Nigeria | Abuja | Africa | naira
Senegal | Dakar | Africa | franc
Mali | Bamako | Africa | franc
Morocco | Rabat | Africa | dirham
Algeria | Algiers | Africa | dinar
Tunisia | Tunis | Africa | dinar
Libya | Tripoli | Africa | dinar
Sudan | Khartoum | Africa | pound
Angola | Luanda | Africa | kwanza
Zambia | Lusaka | Africa | kwacha
Zimbabwe | Harare | Africa | -
Mozambique | Maputo | Africa | metical
Namibia | Windhoek | Africa | dollar
Botswana | Gaborone | Africa | pula
Madagascar | Antananarivo | Africa | ariary
Malawi | Lilongwe | Africa | kwacha
Rwanda | Kigali | Africa | franc
Somalia | Mogadishu | Africa | shilling
Cameroon | Yaounde | Africa | franc
Gabon | Libreville | Africa | franc
Niger | Niamey | Africa | franc
Togo | Lome | Africa | franc
Liberia | Monrovia | Africa | dollar
Sierra Leone | Freetown | Africa | leone
Guinea | Conakry | Africa | franc
Mauritania | Nouakchott | Africa | ouguiya
Eritrea | Asmara | Africa | nakfa
Burkina Faso | Ouagadougou | Africa | franc
South Africa | - | Africa | rand
Tanzania | - | Africa | shilling
Canada | Ottawa | North America | dollar
Mexico | Mexico City | North America | peso
Cuba | Havana | North America | peso
Jamaica | Kingston | North America | dollar
Haiti | Port-au-Prince | North America | gourde
Guatemala | Guatemala City | North America | quetzal
Honduras | Tegucigalpa | North America | lempira
Nicaragua | Managua | North America | cordoba
Costa Rica | San Jose | North America | colon
Panama | Panama City | North America | balboa
Belize | Belmopan | North America | dollar
El Salvador | San Salvador | North America | dollar
Barbados | Bridgetown | North America | dollar
Peru | Lima | South America | sol
Brazil | Brasilia | South America | real
Argentina | Buenos Aires | South America | peso
Chile | Santiago | South America | peso
Colombia | Bogota | South America | peso
Venezuela | Caracas | South America | bolivar
Ecuador | Quito | South America | dollar
Bolivia | - | South America | boliviano
Paraguay | Asuncion | South America | guarani
Uruguay | Montevideo | South America | peso
Guyana | Georgetown | South America | dollar
Suriname | Paramaribo | South America | dollar
Australia | Canberra | Oceania | dollar
New Zealand | Wellington | Oceania | dollar
Fiji | Suva | Oceania | dollar
Samoa | Apia | Oceania | tala
Tonga | - | Oceania | -
"""

# kind: members; a member with an article of its own carries it ("the Nile"), "=" marks one that takes none
KINDS = """
bird: robin, sparrow, eagle, owl, parrot, penguin, duck, goose, swan, pigeon, crow, hawk, falcon, ostrich, peacock
bird: stork, gull, heron, finch, raven, woodpecker, flamingo, nightingale, vulture, pelican
fish: salmon, tuna, trout, shark, cod, herring, carp, eel, sardine, mackerel
insect: ant, bee, wasp, beetle, butterfly, moth, mosquito, grasshopper, ladybird, dragonfly
mammal: dog, cat, horse, cow, sheep, goat, pig, lion, tiger, elephant, whale, dolphin, rabbit, mouse, bear, wolf
mammal: fox, deer, camel, giraffe, zebra, monkey, squirrel, hedgehog, otter, kangaroo, badger, donkey, leopard
reptile: snake, lizard, crocodile, tortoise, turtle, gecko, iguana, alligator, cobra
fruit: apple, pear, plum, cherry, peach, banana, grape, lemon, mango, melon, apricot, fig, strawberry, raspberry
fruit: pineapple, coconut
vegetable: carrot, potato, onion, cabbage, turnip, lettuce, leek, radish, beetroot, parsnip, cauliflower
tree: oak, pine, birch, willow, maple, elm, fir, spruce, poplar, beech, cedar
flower: rose, tulip, daisy, lily, orchid, daffodil, poppy, sunflower, dandelion, marigold, primrose, buttercup
tool: hammer, saw, screwdriver, spade, rake, chisel, spanner, drill, axe, shovel
vehicle: car, bus, truck, van, tractor, taxi, ambulance, motorbike, tram, scooter, bicycle
musical instrument: piano, guitar, violin, flute, drum, trumpet, harp, cello, clarinet, oboe, saxophone, trombone
piece of furniture: chair, table, sofa, bed, wardrobe, desk, bookcase, stool, cupboard, armchair
piece of clothing: shirt, coat, jacket, skirt, dress, sweater, scarf, sock, hat, glove
building: house, church, castle, school, hospital, barn, palace, cottage, temple, library, museum
metal: =gold, =silver, =iron, =copper, =tin, =lead, =zinc, =nickel, =aluminium
colour: =red, =blue, =green, =yellow, =purple, =brown, =pink, =grey, =black, =white
drink: =tea, =coffee, =milk, =lemonade, =cocoa, =wine, =beer
sport: =football, =tennis, =hockey, =golf, =rugby, =basketball, =volleyball, =baseball, =badminton
planet: =Mercury, =Venus, =Mars, =Jupiter, =Saturn, =Uranus, =Neptune
river: the Nile, the Amazon, the Danube, the Thames, the Rhine, the Seine, the Volga, the Ganges
ocean: the Pacific, the Atlantic, the Arctic
shape: circle, square, triangle, rectangle, oval, pentagon, hexagon
container: bottle, bucket, basket, jar, barrel, jug
part of the body: arm, leg, head, hand, foot, knee, elbow, nose, ear, eye, finger, thumb, shoulder, neck, tongue
boat: canoe, yacht, ferry, kayak, dinghy
day: =Monday, =Tuesday, =Wednesday, =Thursday, =Friday, =Saturday, =Sunday
month: =January, =February, =April, =June, =July, =August, =September, =October, =November, =December
"""

NOUNS = """
bag, ball, bell, bird, boat, book, boot, bowl, box, boy, bread, bridge, brother, brush, button, cake, camp, candle,
cart, cave, child, city, clock, cloud, coin, cup, curtain, door, dream, egg, face, farm, fence, field, flag, floor,
flower, forest, friend, game, garden, gate, girl, glass, hill, hole, hour, island, key, king, kitchen, knife, lake,
lamp, leaf, letter, map, market, mirror, moon, mountain, nail, name, nest, night, page, paper, park, path, pen,
pencil, picture, plate, pocket, pond, pot, prince, queen, ring, river, road, rock, roof, room, rope, sea, seed,
ship, shoe, shop, sister, song, spoon, stamp, star, station, stone, storm, story, street, sun, teacher, tent, tool,
tooth, tower, town, toy, train, tree, village, wall, watch, wheel, window, wing, winter, wood
"""

# singular > plural, where "s", "es" and "ies" do not do
PLURALS = """
man > men, woman > women, child > children, tooth > teeth, foot > feet, goose > geese, mouse > mice, ox > oxen,
person > people, leaf > leaves, knife > knives, wife > wives, life > lives, half > halves, wolf > wolves,
shelf > shelves, loaf > loaves, thief > thieves, calf > calves, elf > elves, sheep > sheep, deer > deer,
potato > potatoes, tomato > tomatoes, hero > heroes, echo > echoes
"""

REGULAR_PLURALS = """
bag, ball, bell, bird, boat, book, boot, bowl, boy, bridge, brother, button, cake, candle, cart, cave, clock, cloud,
coin, cup, door, dream, egg, farm, fence, field, flag, floor, flower, forest, friend, game, garden, gate, girl, hill,
hole, hour, island, key, king, lake, lamp, letter, map, market, mirror, mountain, nail, name, nest, night, page, park,
path, pen, pencil, picture, plate, pocket, pond, pot, prince, queen, ring, river, road, rock, room, rope, seed, ship,
shoe, shop, sister, song, spoon, stamp, star, stone, storm, street, teacher, tent, tool, tower, town, toy, train, tree,
village, wall, wheel, window, wing, dog, cat, horse, cow, apple, pear, table, chair, shirt, coat, hat, house, school,
box, fox, bus, glass, dress, brush, dish, watch, church, bench, match, peach, beach, class, wish, branch, bush, kiss,
city, story, baby, lady, country, party, family, army, cherry, berry, daisy, fairy, body, penny, puppy, butterfly
"""

# base > past tense
PASTS = """
begin > began, break > broke, bring > brought, build > built, buy > bought, catch > caught, choose > chose,
come > came, dig > dug, do > did, draw > drew, drink > drank, drive > drove, eat > ate, fall > fell, feed > fed,
feel > felt, fight > fought, find > found, fly > flew, forget > forgot, forgive > forgave, freeze > froze, get > got,
give > gave, go > went, grow > grew, have > had, hear > heard, hide > hid, hold > held, keep > kept, know > knew,
lead > led, leave > left, lend > lent, lose > lost, make > made, mean > meant, meet > met, pay > paid, ride > rode,
ring > rang, rise > rose, run > ran, say > said, see > saw, seek > sought, sell > sold, send > sent, shake > shook,
shoot > shot, sing > sang, sink > sank, sit > sat, sleep > slept, slide > slid, speak > spoke, spend > spent,
spin > spun, stand > stood, steal > stole, stick > stuck, sting > stung, strike > struck, swear > swore,
sweep > swept, swim > swam, swing > swung, take > took, teach > taught, tear > tore, tell > told, think > thought,
throw > threw, understand > understood, wake > woke, wear > wore, weave > wove, weep > wept, win > won,
write > wrote, bend > bent, bind > bound, bite > bit, bleed > bled, blow > blew, cling > clung, creep > crept,
deal > dealt, flee > fled, fling > flung, grind > ground, lay > laid, shrink > shrank, become > became,
walk > walked, talk > talked, jump > jumped, play > played, look > looked, help > helped, open > opened,
close > closed, ask > asked, answer > answered, cook > cooked, clean > cleaned, wash > washed, paint > painted,
push > pushed, pull > pulled, call > called, carry > carried, try > tried, cry > cried, study > studied,
stop > stopped, plan > planned, hop > hopped, drop > dropped, clap > clapped, love > loved, hope > hoped,
dance > danced, smile > smiled, live > lived, move > moved, use > used, need > needed, want > wanted,
visit > visited, wait > waited, start > started, end > ended, listen > listened, marry > married, hurry > hurried
"""

# "a = b" holds both ways, "a > b" only from left to right (the other word has several opposites)
OPPOSITES = """
hot = cold, happy = sad, up = down, in = out, on = off, day = night, black = white, rich = poor, full = empty,
wet = dry, clean = dirty, early = late, strong = weak, high = low, wide = narrow, deep = shallow, near = far,
true = false, good = bad, best = worst, better = worse, many = few, first = last, before = after, above = below,
inside = outside, begin = end, buy = sell, push = pull, give = take, come = go, remember = forget, love = hate,
alive = dead, awake = asleep, add = subtract, multiply = divide, increase = decrease, rise = fall, float = sink,
friend = enemy, north = south, east = west, top = bottom, front = back, summer = winter, sunrise = sunset,
birth = death, war = peace, victory = defeat, success = failure, profit = loss, question = answer, entrance = exit,
strength = weakness, joy = sorrow, pleasure = pain, poverty = wealth, ceiling = floor, winner = loser,
maximum = minimum, positive = negative, public = private, male = female, guilty = innocent, polite = rude,
possible = impossible, legal = illegal, visible = invisible, common = rare, cheap = expensive, smooth = rough,
sharp = blunt, tight = loose, tame = wild, safe = dangerous, lucky = unlucky, fair = unfair, usual = unusual,
known = unknown, able = unable, ancient = modern, temporary = permanent, wise = foolish, beautiful = ugly,
tidy = untidy, careful = careless, useful = useless, lock = unlock, tie = untie, pack = unpack, load = unload,
wrap = unwrap, appear = disappear, agree = disagree, obey = disobey, import = export, inhale = exhale,
attack = defend, borrow = lend, reward = punish, stand = sit, pass = fail, shout = whisper, lead = follow,
always = never, here = there, yes = no, everything = nothing, with = without, over = under, forward = backward,
upstairs = downstairs, indoors = outdoors, quickly = slowly, loud = quiet, tall > short, long > short, big > small,
heavy > light, dark > light, young > old, new > old, soft > hard, easy > difficult, thick > thin, left > right,
wrong > right, more > less, start > stop, win > lose, find > lose, arrive > leave, absent > present, past > future,
sweet > sour, throw > catch, melt > freeze, show > hide, build > destroy
"""

YOUNG = """
dog > puppy, cat > kitten, cow > calf, horse > foal, sheep > lamb, pig > piglet, goat > kid, hen > chick,
duck > duckling, goose > gosling, swan > cygnet, lion > cub, bear > cub, fox > cub, tiger > cub, leopard > cub,
deer > fawn, kangaroo > joey, frog > tadpole, owl > owlet, eagle > eaglet, elephant > calf, whale > calf,
giraffe > calf, camel > calf, hare > leveret, seal > pup, butterfly > caterpillar, zebra > foal, donkey > foal,
spider > spiderling, dolphin > calf
"""

HOMES = """
bird > nest, bee > hive, spider > web, dog > kennel, horse > stable, pig > sty, rabbit > burrow, lion > den,
wolf > den, beaver > lodge, hen > coop, cow > shed, squirrel > drey, badger > sett, otter > holt, eagle > eyrie,
wasp > nest, sheep > fold, bear > den, snail > shell, pigeon > loft, fox > den
"""

FEMALES = """
man > woman, king > queen, prince > princess, boy > girl, father > mother, son > daughter, brother > sister,
uncle > aunt, nephew > niece, husband > wife, grandfather > grandmother, actor > actress, waiter > waitress,
host > hostess, hero > heroine, lion > lioness, tiger > tigress, bull > cow, ram > ewe, stallion > mare,
drake > duck, gander > goose, bridegroom > bride, wizard > witch, duke > duchess, emperor > empress, monk > nun,
lord > lady, widower > widow, landlord > landlady, grandson > granddaughter, stepfather > stepmother
"""

# colour: things; "=" marks a thing named without an article, "the" is written out
COLOURS = """
yellow: banana, lemon, canary, sunflower, daffodil, buttercup, =butter, =custard, egg yolk
white: =snow, =milk, =salt, =flour, =chalk, swan, polar bear, =cotton, =ivory, daisy petal
green: =grass, pea, cucumber, lettuce, lime, frog, emerald, =spinach, =broccoli, grasshopper
red: =blood, tomato, strawberry, fire engine, poppy, ladybird, ruby, =ketchup, raspberry
black: =coal, raven, crow, =soot, =tar, panther, =liquorice
brown: =chocolate, =coffee, =toast, chestnut, =bark, =cinnamon, acorn, walnut
grey: elephant, =ash, dolphin, rhinoceros, =lead, =cement
orange: carrot, pumpkin, tangerine, apricot, =marmalade
blue: the sky, the sea, sapphire, cornflower, bluebell
pink: flamingo, pig, cherry blossom
purple: aubergine, =lavender, amethyst
"""

# what the person does > the person
JOBS = """
bakes bread > baker, teaches children > teacher, flies planes > pilot, catches fish > fisherman,
looks after gardens > gardener, paints pictures > painter, writes poems > poet, sings songs > singer,
acts in plays > actor, makes suits > tailor, mends shoes > cobbler, makes things from wood > carpenter,
mends water pipes > plumber, repairs electric wires > electrician, repairs engines > mechanic,
looks after teeth > dentist, treats sick animals > vet, performs operations > surgeon, decides cases in court > judge,
lends books in a library > librarian, puts out fires > firefighter, fights in an army > soldier,
delivers letters > postman, serves food in a cafe > waiter, cuts the hair of men > barber, sells jewels > jeweller,
sells flowers > florist, sells meat > butcher, sells fruit and sugar > grocer, looks after sheep > shepherd,
keeps bees > beekeeper, makes horseshoes > blacksmith, makes clay pots > potter, weaves cloth > weaver,
digs for coal > miner, designs houses > architect, travels in space > astronaut, studies the stars > astronomer,
studies plants > botanist, studies animals > zoologist, studies rocks > geologist, studies the past > historian,
studies numbers > mathematician, carves statues > sculptor, takes photographs > photographer,
writes for a newspaper > journalist, leads an orchestra > conductor, plays the piano > pianist,
plays the violin > violinist, plays the guitar > guitarist, plays the drums > drummer, plays the flute > flautist,
guards the goal > goalkeeper, rides horses in races > jockey, rescues swimmers > lifeguard, rides a bicycle > cyclist,
does magic tricks > magician, sells glasses > optician, lays bricks > bricklayer, fits glass in windows > glazier,
makes locks > locksmith, makes watches > watchmaker, invents machines > inventor, explores new lands > explorer,
solves crimes > detective, works at sea > sailor, grows crops > farmer, cleans chimneys > chimney sweep,
brews beer > brewer, hunts animals > hunter, translates books > translator, cooks in a restaurant > chef
"""

# what one wants to do > the thing for it
TOOLS = """
sweep the floor > broom, knock in a nail > hammer, cut wood > saw, measure a fever > thermometer,
tell the time > clock, look at the stars > telescope, look at tiny things > microscope, open a lock > key,
eat soup > spoon, find north > compass, sew on a button > needle, stay dry in the rain > umbrella,
boil water > kettle, bake a cake > oven, keep food cold > refrigerator, cut the grass > lawnmower,
row a boat > oar, reach the roof > ladder, tidy the hair > comb, take a photograph > camera,
rub out a pencil line > eraser, draw a straight line > ruler, turn a screw > screwdriver, blow up a tyre > pump,
see your own face > mirror, play tennis > racket, sit on a horse > saddle, measure an angle > protractor,
hear a heartbeat > stethoscope, fry an egg > frying pan, brush your teeth > toothbrush, dry your hands > towel,
toast bread > toaster, post a letter > envelope, cut a steak > knife, light a fire > match,
wipe your nose > handkerchief, cut paper > pair of scissors, sleep in the woods > tent, wake up on time > alarm clock,
carry shopping > basket, do sums quickly > calculator, press clothes > iron, dig a hole > spade,
land from a plane > parachute, talk to someone far away > telephone, chop a tree > axe, weigh apples > pair of scales
"""

SYMBOLS = """
hydrogen > H, helium > He, carbon > C, nitrogen > N, oxygen > O, fluorine > F, neon > Ne, sodium > Na,
magnesium > Mg, aluminium > Al, silicon > Si, phosphorus > P, sulphur > S, chlorine > Cl, argon > Ar, potassium > K,
calcium > Ca, iron > Fe, nickel > Ni, copper > Cu, zinc > Zn, silver > Ag, tin > Sn, iodine > I, gold > Au,
mercury > Hg, lead > Pb, lithium > Li, titanium > Ti, chromium > Cr, cobalt > Co, platinum > Pt, uranium > U,
radium > Ra, manganese > Mn, barium > Ba, tungsten > W, krypton > Kr, bismuth > Bi, arsenic > As, boron > B,
bromine > Br, xenon > Xe, cadmium > Cd
"""

# adjective > comparative
COMPARATIVES = """
tall > taller, short > shorter, old > older, young > younger, long > longer, small > smaller, cold > colder,
warm > warmer, slow > slower, fast > faster, quick > quicker, strong > stronger, weak > weaker, high > higher,
low > lower, deep > deeper, dark > darker, light > lighter, bright > brighter, clean > cleaner, cheap > cheaper,
rich > richer, poor > poorer, hard > harder, soft > softer, loud > louder, new > newer, kind > kinder,
near > nearer, thick > thicker, sharp > sharper, smooth > smoother, rough > rougher, sweet > sweeter, fresh > fresher,
great > greater, tight > tighter, steep > steeper, big > bigger, hot > hotter, thin > thinner, fat > fatter,
wet > wetter, sad > sadder, red > redder, nice > nicer, wide > wider, late > later, large > larger, brave > braver,
safe > safer, wise > wiser, strange > stranger, pale > paler, happy > happier, easy > easier, busy > busier,
heavy > heavier, early > earlier, funny > funnier, dirty > dirtier, pretty > prettier, lucky > luckier,
lazy > lazier, hungry > hungrier, noisy > noisier, sunny > sunnier, windy > windier, angry > angrier, dry > drier,
good > better, bad > worse, beautiful > more beautiful, careful > more careful,
dangerous > more dangerous, difficult > more difficult, expensive > more expensive, famous > more famous,
useful > more useful, important > more important, interesting > more interesting, modern > more modern,
patient > more patient, popular > more popular, powerful > more powerful, serious > more serious,
comfortable > more comfortable, curious > more curious, honest > more honest
"""

PEOPLE = """
farmer, teacher, boy, girl, doctor, baker, nurse, king, queen, sailor, driver, painter, sister, brother, student,
singer, soldier, visitor, neighbour, gardener
"""

# base, third person, past, participle: things it is done to
VERBS = """
wash, washes, washed, washed: plate, car, window, shirt, cup
paint, paints, painted, painted: wall, door, fence, boat, chair
open, opens, opened, opened: box, door, letter, gate, bottle
carry, carries, carried, carried: bag, basket, box, ladder, lamp
clean, cleans, cleaned, cleaned: room, kitchen, table, window, boot
push, pushes, pushed, pushed: cart, door, chair, bicycle, table
pull, pulls, pulled, pulled: rope, cart, boat, bell
visit, visits, visited, visited: museum, farm, school, castle, village
cook, cooks, cooked, cooked: meal, egg, fish, potato
help, helps, helped, helped: neighbour, child, friend, visitor
watch, watches, watched, watched: game, bird, train, horse
count, counts, counted, counted: coin, star, apple, sheep
break, breaks, broke, broken: cup, plate, stick, window
build, builds, built, built: house, bridge, wall, tower
find, finds, found, found: key, coin, ball, letter, ring
write, writes, wrote, written: letter, poem, story, book
draw, draws, drew, drawn: horse, map, house, tree, flower
drive, drives, drove, driven: bus, truck, tractor, van
eat, eats, ate, eaten: apple, pear, cake, orange
feed, feeds, fed, fed: dog, cat, horse, duck
buy, buys, bought, bought: hat, coat, book, lamp, ticket
sell, sells, sold, sold: flower, basket, carpet, painting
throw, throws, threw, thrown: ball, stone, stick
take, takes, took, taken: picture, bag, pen, spoon
sing, sings, sang, sung: song
hide, hides, hid, hidden: key, present, map, coin
"""

NAMES = """
Ana, Tom, Mia, Ben, Nina, Paul, Lucy, Omar, Rosa, Sam, Ivy, Karl, Eva, Hugo, Lena, Max, Olga, Finn, Clara, Leo
"""
