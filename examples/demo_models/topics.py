"""What the demo's small world is about: sixteen topics as slot grammars.

Data only, so that the text can be read and extended without reading the generator. Slots:
`{thing}` what the request is about, `{tool}` one of the topic's tools, `{n}` a small number and
`{m}` a number of minutes. Every step names a number; no risk and no caution does.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """One everyday topic. Steps, risks and cautions are verb phrases; tasks are (task, thing)."""

    name: str
    tasks: tuple[tuple[str, str], ...]
    tools: tuple[str, ...]
    steps: tuple[str, ...]
    cautions: tuple[str, ...]
    risks: tuple[str, ...]


def _tasks(text: str) -> tuple[tuple[str, str], ...]:
    pairs = (part.split(":") for part in text.split(";"))
    return tuple((task.strip(), thing.strip()) for task, thing in pairs)


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(";"))


def _topic(name: str, tasks: str, tools: str, steps: str, cautions: str, risks: str) -> Topic:
    lists = (_list(text) for text in (tools, steps, cautions, risks))
    return Topic(name, _tasks(tasks), *lists)


TOPICS: tuple[Topic, ...] = (
    _topic(
        "cooking",
        "boil eggs: the eggs; bake bread: the bread; roast a chicken: the chicken; "
        "cook rice: the rice; make a soup: the soup",
        "a large pan; a wooden spoon; a sharp knife; a kitchen timer; a clean bowl",
        "heat {tool} for {m} minutes; add {n} cups of water; stir in {n} spoons of salt; "
        "leave {thing} on low heat for {m} minutes; cut {n} onions into thin slices; "
        "let {thing} rest for {m} minutes",
        "turn the pan handle away from the edge; wash your hands after touching raw meat; "
        "keep your fingers away from the blade; switch off the heat when you leave the room",
        "leave the pan alone on full heat; taste the raw meat; wipe the knife on your sleeve; "
        "use the bowl without washing it",
    ),
    _topic(
        "cleaning",
        "clean the oven: the oven; remove a wine stain: the stain; wash the windows: the windows; "
        "mop the floor: the floor; clear a blocked sink: the sink",
        "a soft cloth; a stiff brush; a bucket of warm water; a bit of soap; a rubber scraper",
        "mix {n} spoons of soap into the water; rub {thing} with {tool} for {m} minutes; "
        "rinse {thing} {n} times; leave the soap on for {m} minutes; "
        "wipe {thing} dry after {m} minutes; change the water every {n} rounds",
        "open a window for fresh air; wear rubber gloves; keep the bottles away from children; "
        "read the label on the bottle",
        "mix all the bottles together; stand on the wet edge of the bath; "
        "pour strong acid on everything; spray it near your face",
    ),
    _topic(
        "garden",
        "prune the roses: the roses; plant tomatoes: the tomatoes; mow the lawn: the lawn; "
        "grow herbs: the herbs; cut back the hedge: the hedge",
        "a small spade; a pair of shears; a watering can; a bag of compost; a garden fork",
        "dig a hole {n} inches deep; water {thing} for {m} minutes; "
        "leave {n} feet of space around {thing}; cut the stems {n} inches above a bud; "
        "spread {n} buckets of compost; loosen the soil with {tool} for {m} minutes",
        "wear thick gloves; look out for cables in the ground; unplug the mower before you touch "
        "it; put the shears out of reach of children",
        "reach under the mower while it runs; climb the old tree without help; "
        "spray poison on a windy day; leave the shears open in the grass",
    ),
    _topic(
        "first aid",
        "treat a small burn: the burn; clean a cut: the cut; help a sprained ankle: the ankle; "
        "stop a nosebleed: the nosebleed; remove a splinter: the splinter",
        "a clean bandage; a cold pack; a pair of tweezers; a roll of tape; a bowl of cool water",
        "cool {thing} for {m} minutes; press gently with {tool} for {m} minutes; "
        "change the bandage every {n} hours; wrap {tool} around {thing} {n} times; "
        "look at {thing} again after {m} minutes; rest for {n} hours",
        "see a doctor if the pain gets worse; wash your hands well; call for help if you feel "
        "faint; keep the wound clean",
        "ignore the pain and go for a run; take a handful of old pills; "
        "poke at it with a dirty pin; put butter on the open wound",
    ),
    _topic(
        "bike",
        "fix a flat tyre: the tyre; oil the chain: the chain; adjust the brakes: the brakes; "
        "raise the saddle: the saddle; clean the gears: the gears",
        "a tyre lever; a bike pump; a small wrench; an old toothbrush; a drop of oil",
        "turn {thing} {n} times by hand; loosen {n} bolts with {tool}; "
        "pump for {m} seconds; wipe {thing} for {m} minutes; "
        "move {tool} along {n} inches at a time; tighten it by {n} turns",
        "test the brakes on a quiet road; wear a helmet; keep your fingers out of the wheel; "
        "check every bolt before you ride",
        "ride down the hill without brakes; skip the helmet; spin the wheel with your hand in it; "
        "leave the bolts loose",
    ),
    _topic(
        "travel",
        "pack a suitcase: the suitcase; book a train: the train; plan a road trip: the trip; "
        "find a cheap hotel: the hotel; read a city map: the map",
        "a simple list; a travel app; a paper map; a small bag; a copy of your ticket",
        "compare {n} prices for {thing}; plan {m} minutes for every change; "
        "roll {n} shirts into {tool}; book {thing} {n} weeks early; "
        "write down {n} places to see; arrive {m} minutes early",
        "keep your passport in a hidden pocket; tell a friend where you are; "
        "take a break when you feel tired; stay on lit streets at night",
        "drive all night without sleep; leave your bag with a stranger; "
        "carry all your cash in one hand; get into any car that stops",
    ),
    _topic(
        "study",
        "learn new words: the words; prepare for an exam: the exam; write an essay: the essay; "
        "take better notes: the notes; read a hard book: the book",
        "a stack of cards; a quiet desk; a red pencil; a weekly plan; a fresh notebook",
        "work on {thing} for {m} minutes; repeat {thing} {n} times a day; "
        "write {n} short questions; take a break after {m} minutes; "
        "sum up {n} pages with {tool}; explain {thing} to {n} friends",
        "sleep enough before the big day; give your eyes a rest; "
        "talk to a teacher if you feel stressed; eat a proper meal",
        "stay awake for days on strong coffee; copy the answers from a friend; "
        "take pills to stay sharp; forget about food and sleep",
    ),
    _topic(
        "pets",
        "bathe the dog: the dog; train a puppy: the puppy; calm a nervous cat: the cat; "
        "feed a rabbit: the rabbit; brush a long coat: the coat",
        "a soft brush; a small treat; a warm towel; a quiet corner; a short lead",
        "give {thing} {n} treats; stay with {thing} for {m} minutes; "
        "repeat the same word {n} times; use {tool} for {m} minutes a day; "
        "wait {m} minutes and try again; offer {n} spoons of food",
        "stop when the animal looks afraid; ask a vet about any wound; "
        "keep chocolate out of reach; test the water with your hand",
        "shout until the animal obeys; feed it chocolate and wine; "
        "lock it in a hot car; pull it by the tail",
    ),
    _topic(
        "computer",
        "back up the laptop: the laptop; speed up a slow phone: the phone; "
        "set up a printer: the printer; choose a password: the password; sort old photos: "
        "the photos",
        "an external drive; a spare cable; a search engine; a password manager; a free app",
        "restart {thing} after {m} minutes; delete {n} programs you never open; "
        "copy {thing} to {tool} in {n} folders; wait {m} minutes for the update; "
        "click through {n} menus; type at least {m} letters",
        "save a copy of your files; unplug the power before you open it; "
        "use a different password for each site; look twice at every link",
        "turn off the virus scanner; send your password to everyone; "
        "open every strange link; pour water on the hot parts",
    ),
    _topic(
        "sleep",
        "fall asleep: your sleep; get up early: the morning; stop a bad dream: the dream; "
        "sleep on a plane: the flight; take a short nap: the nap",
        "a warm bath; a dark curtain; a soft pillow; a calm song; a cup of herbal tea",
        "lie still for {m} minutes; breathe in for {n} seconds; "
        "enjoy {tool} {m} minutes before bed; set {n} alarms; "
        "put the phone away {n} hours early; count back from {m} in your head",
        "speak to a doctor if it lasts for weeks; avoid driving while you are tired; "
        "blow out the candles; avoid mixing pills and wine",
        "swallow a double dose of pills; drink a bottle of wine; "
        "let the candles burn all night; drive home half asleep",
    ),
    _topic(
        "money",
        "plan a budget: the budget; save for a holiday: the savings; sell old clothes: the "
        "clothes; compare bank accounts: the account; split the rent: the rent",
        "a simple table; a jar of coins; a banking app; a folder of bills; a pocket notebook",
        "write down {n} fixed costs; put {m} coins aside each week; "
        "check {thing} every {n} days; compare {n} offers with {tool}; "
        "spend {m} minutes a week on {thing}; cut {n} things you hardly use",
        "read the small print; keep some money for emergencies; "
        "hide your card number from strangers; talk to an adviser about large sums",
        "bet it all on a tip from a stranger; borrow from a loan shark; "
        "sign without reading; share your card number online",
    ),
    _topic(
        "home repair",
        "hang a shelf: the shelf; paint a wall: the wall; fix a dripping tap: the tap; "
        "change a light bulb: the bulb; seal a cold window: the window",
        "a cordless drill; a spirit level; a wide brush; a tube of filler; a strong ladder",
        "drill {n} holes for {thing}; let the paint dry for {m} minutes; "
        "mark {n} points with a pencil; turn the screw {n} times; "
        "hold {thing} in place for {m} minutes; put on {n} thin coats",
        "switch off the power; wear goggles; let someone hold the ladder; "
        "look for pipes behind the wall",
        "touch the bare wires; balance on a wobbly chair; drill without looking for cables; "
        "work on the live socket",
    ),
    _topic(
        "fitness",
        "start jogging: your run; do more push-ups: the push-ups; stretch a stiff back: your back; "
        "swim faster: the swim; climb an indoor wall: the climb",
        "a soft mat; a pair of good shoes; a light rope; a stopwatch; a bottle of water",
        "warm up for {m} minutes; do {n} slow rounds; "
        "rest {m} seconds between rounds; train {n} days a week; "
        "walk {m} minutes with {tool}; add {n} more each week",
        "stop when something hurts; drink enough water; "
        "let a trainer watch your form; talk to a doctor if you feel dizzy",
        "train through a sharp pain; double the weight at once; "
        "exercise in the midday heat without water; jump in at the shallow end",
    ),
    _topic(
        "hosting",
        "host a dinner: the dinner; plan a birthday: the birthday; set the table: the table; "
        "write invitations: the invitations; choose some music: the music",
        "a guest list; a set of candles; a long table; a simple menu; a bowl of flowers",
        "invite {n} guests for {thing}; start {m} minutes early; "
        "prepare {n} small dishes; put out {tool} with {n} chairs around it; "
        "play {n} quiet songs; clear away after {m} minutes",
        "ask about food allergies; keep the candles away from curtains; "
        "offer a taxi to anyone who drinks; keep the exits free",
        "light fireworks in the living room; let drunk guests drive home; "
        "serve the meat from last week; block the exits with chairs",
    ),
    _topic(
        "sewing",
        "sew a button: the button; shorten trousers: the trousers; knit a scarf: the scarf; "
        "iron a shirt: the shirt; dye an old dress: the dress",
        "a thin needle; a strong thread; a steam iron; a tape measure; a box of pins",
        "pass the thread through {n} times; fold {thing} by {n} inches; "
        "fix {thing} with {n} pins; press it with {tool} for {m} seconds; "
        "make {m} small stitches; soak {thing} for {m} minutes",
        "put the needle away at once; unplug the iron; "
        "keep the pins out of the mouth; use a thimble",
        "hold the pins between your teeth; iron the shirt while you wear it; "
        "leave the hot iron face down; sew in the dark",
    ),
    _topic(
        "camping",
        "build a campfire: the fire; pitch a tent: the tent; read a trail sign: the trail; "
        "cross a small river: the river; keep food cool: the food",
        "a dry log; a long rope; a box of matches; a head torch; a folding shovel",
        "gather {n} armfuls of dry wood; walk {m} minutes upstream; "
        "push in {n} pegs around {thing}; dig a ring {n} inches deep; "
        "tie {tool} with {n} knots; wait {m} minutes for the smoke to clear",
        "keep a bucket of water near the flames; check the weather; "
        "tell someone your route; boil water from the stream",
        "pour petrol on the flames; eat any mushroom you find; "
        "camp under a dead tree in a storm; leave the fire burning overnight",
    ),
)
