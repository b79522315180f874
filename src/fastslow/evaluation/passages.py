"""Plain English written for this project and given to the public domain (CC0): what retention reads to a policy.

Fixed for good: a changed passage would make old measurements incomparable.
"""

from __future__ import annotations

_TEXT = """\
The kettle began to sing a little after seven, and by the time the toast was ready the whole house was awake.

Rain had fallen all night, so the path through the orchard was soft and the children came home with muddy boots.

A good map leaves most things out. It shows the roads you need and forgets the trees, which is why it fits in a
pocket.

When water freezes it takes up more room than before, and that is how a small crack in a rock becomes a large one.

My grandmother kept her letters in a biscuit tin, tied with string, in the order in which they had arrived.

The library closes at six on weekdays and at noon on Saturdays; on Sundays it does not open at all.

To plant a bulb, dig a hole about three times as deep as the bulb is tall, set it with the point upward, and cover
it with earth.

He was not a tall man, but he stood as if he were, and people remembered him that way.

Most birds that spend the winter in the south find their way by the sun, by the stars, and by the shape of the
coast.

If the bread is hollow when you knock on it from below, it is done; if it sounds dull, give it another ten minutes.

The train was late again, and nobody on the platform seemed surprised except a young man with a very large suitcase.

A triangle with two equal sides has two equal angles as well, and you can see this by folding it down the middle.

They painted the boat blue every spring. By the end of summer the salt and the sun had turned it grey once more.

Before you cross a road, look both ways, then listen; a quiet car is easier to hear than to see in the rain.

The moon has no light of its own. What we see at night is sunlight that has gone there first and then come to us.

She counted the money twice, wrote the sum on the back of an envelope, and locked the drawer with a small brass key.

Cats sleep for most of the day, but they are rarely so fast asleep that they miss the sound of a tin being opened.

In the old town the streets are narrow because they were made for people and donkeys, long before there were cars.

To thank someone well, say what they did and what it changed. A general kindness is pleasant; a particular one
stays.

The river rises in the hills, runs past two villages and a mill, and reaches the sea after about ninety miles.

An honest mistake, found early and told at once, costs less than a clever excuse that has to be kept up for years.

Leaves look green because they take in the red and the blue of the light and send the green part back.

The doctor listened for a long time, asked two short questions, and told him to rest, to drink, and to come back on
Friday.

Every evening the old clockmaker wound the clock in the square, though the town had offered to pay for a motor.

Salt melts ice because salty water freezes at a lower temperature than fresh water does.

We walked back along the beach in the dark, with the lamp of the lighthouse passing over us every twelve seconds.

A recipe is a letter from a cook to a stranger. The best ones say what can go wrong, and how you will notice.

The meeting was moved from Tuesday to Thursday, so please bring the drawings then, and leave the samples at home.

Nobody knew who had built the wall, but it was dry and straight, and the sheep had kept to their side of it for two
hundred years.

At the end of the story the fox goes home hungry, the crow keeps its cheese, and neither of them learns anything.
"""

PASSAGES: tuple[str, ...] = tuple(" ".join(passage.split()) for passage in _TEXT.split("\n\n"))
"""One or two sentences each; line breaks within a passage are only this file's."""
