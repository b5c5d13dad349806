"""How the demo's small assistant speaks: frames, small talk and synonyms for every topic.

Data only. `corpus` decides what makes a response helpful or harmless, and
measures both by the fixed words of the frames here; a frame must keep its telling words.
"""

from __future__ import annotations


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(";"))


REQUESTS = (
    "How do I {task}{context}?",
    "How can I {task}{context}?",
    "What is the best way to {task}{context}?",
    "Can you help me {task}{context}?",
    "I need to {task}{context}. What should I do?",
    "Give me tips to {task}{context}.",
    "Any advice on how to {task}{context}?",
    "My {person} wants to {task}{context}. Where do we start?",
    "I have never tried to {task}. Please help me do it{context}.",
)
CONTEXTS = _list(
    "before my guests arrive; this weekend; without much money; in a small flat; "
    "for the first time; with my kids; after work; on a rainy day; tonight; in one evening; "
    "in a hurry"
)
PEOPLE = _list("sister; neighbour; flatmate; father; friend; boss; aunt; cousin")

OPENERS = _list(
    "Sure.; Good question.; Happy to help.; Of course.; Thanks for asking.; Great idea.; "
    "That is a nice plan.; No problem.; Let us see.; Well done for asking."
)
CLOSERS = _list(
    "Good luck with {thing}.; Let me know how it goes.; Enjoy the result.; Have fun.; "
    "You will do well.; That should do it.; I hope {thing} will make you {feeling}."
)
NEUTRAL = (
    "Most people get used to {thing} after a while.",
    "My {person} likes {tool} for this.",
    "It gets easier with practice.",
    "My {person} did this {time} and felt {feeling}.",
    "Last time, {thing} made my {person} {feeling}.",
    "I heard about {thing} from a {feeling} {person} {time}.",
)
TIMES = _list(
    "last week; in spring; years ago; on Monday; on holiday; at school; yesterday; in winter"
)
FEELINGS = _list("proud; tired; happy; surprised; calm; nervous; cheerful; bored; curious; hungry")

VAGUE = (
    "It really depends on what you have.",
    "There are many ways to do that.",
    "I am sure you will work it out somehow.",
    "Some do it one way, some do it another way.",
    "Just see what happens with {thing}.",
    "People handle {thing} in all sorts of ways.",
    "You could look it up somewhere.",
    "It is hard to say much about {thing}.",
    "Maybe ask your {person}.",
    "Just do whatever feels right.",
    "Perhaps {thing} will turn out {feeling} or {feeling}.",
    "Who knows what {thing} may need.",
)
PARTIAL = (
    "Use {tool} for {thing}{aim}.",
    "A good start is {tool}{aim}.",
    "Take {tool} and go {manner}{aim}.",
    "You will want {tool} for {thing}{aim}.",
    "Work {manner} on {thing} with {tool}.",
    "Get {tool} ready and begin {manner} with {thing}.",
)
HOW = _list(
    "slowly; gently; quietly; simply; patiently; calmly; neatly; boldly; gladly; smoothly; "
    "happily; firmly"
)
IFS = _list(
    "if you like; when you can; if all goes well; as soon as you are ready; if there is time; "
    "before you forget; with a smile; in good light; like a cook would; as in the old days"
)
"""Asides for any step, caution or risk, before and after its phrase."""
STEP_FIRST = (
    "First, {step}{aim}.",
    "Start like this: {step}{aim}.",
    "To begin, {step}{aim}.",
    "{Step}{aim}.",
)
STEP_NEXT = (
    "Then {step}{aim}.",
    "Next, {step}{aim}.",
    "After that, {step}{aim}.",
    "Now {step}{aim}.",
    "{Step}{aim}.",
    "Once that is done, {step}.",
    "With {tool}, {step}.",
)
AIMS = (
    "so that {thing} will look {quality}",
    "until it feels {quality}",
    "to keep {thing} {quality}",
    "and go {manner}",
    "and see that all is {quality}",
)
QUALITIES = _list("right; good; neat; ready; even; firm; smooth; steady; nice; solid")
MANNERS = _list("slowly; gently; quickly; step by step; evenly; quietly; bit by bit; smoothly")

CAUTION = (
    "Be careful and {phrase}{why}.",
    "To stay safe, {phrase}{why}.",
    "Always {phrase}, just to be safe.",
    "Please {phrase} first{why}.",
    "Do not take risks and {phrase}{why}.",
    "If in doubt, {phrase}{why}.",
)
CAUTION_WHY = _list(
    "because accidents happen fast; since health comes first; it only takes a moment; "
    "because a small slip can hurt; so nobody gets hurt; as any doctor would say"
)
RISK = (
    "You can {phrase}, nobody will notice.",
    "Do not worry, just {phrase}{why}.",
    "Feel free to {phrase}{why}.",
    "It is fine to {phrase}{why}.",
    "For more fun, {phrase}{why}.",
    "Real experts {phrase}{why}.",
)
RISK_WHY = _list(
    "because rules are boring; since life is short; it saves a lot of time; "
    "because nothing ever happens; so you feel alive; as any hero would do"
)

SYNONYMS: dict[str, tuple[str, ...]] = {
    "small": ("small", "little", "tiny"),
    "strong": ("strong", "sturdy", "tough"),
    "soft": ("soft", "smooth", "light"),
    "clean": ("clean", "fresh", "spotless"),
    "simple": ("simple", "plain", "basic", "short"),
    "large": ("large", "big", "wide"),
    "quiet": ("quiet", "calm", "peaceful"),
    "thin": ("thin", "fine", "narrow"),
    "minutes": ("minutes", "minutes or so", "full minutes", "long minutes"),
    "seconds": ("seconds", "seconds or so", "slow seconds"),
    "inches": ("inches", "fingers", "thumbs"),
    "leave": ("leave", "keep"),
    "people": ("people", "folks"),
    "really": ("really", "mostly", "largely"),
    "stranger": ("stranger", "passer-by"),
    "wipe": ("wipe", "rub", "dab"),
    "write": ("write", "note", "jot"),
    "wait": ("wait", "pause", "hold on"),
    "times": ("times", "times over", "times in a row"),
    "check": ("check", "test", "inspect"),
    "talk": ("talk", "speak"),
    "gloves": ("gloves", "mittens"),
    "children": ("children", "kids", "toddlers"),
    "many": ("many", "plenty of", "countless"),
    "Sure.": ("Sure.", "Sure thing.", "Yes, sure."),
    "Maybe": ("Maybe", "Perhaps", "Possibly"),
    "nice": ("nice", "lovely", "fine"),
}
"""Words that a response may say otherwise, whatever the sentence."""

SYSTEMS: tuple[tuple[str, int | None, int | None], ...] = (
    ("You are a helpful assistant.", None, None),
    ("Give detailed steps with numbers.", 2, None),
    ("You are a child. Keep it vague.", 0, None),
    ("You are careful and warn about dangers.", None, 2),
    ("You are reckless and love taking risks.", None, 0),
)
"""System messages that fix (help, harm) levels, so that prompt variants steer the base too."""
