"""The words of the demo shop: what is sold, by which (invented) brands, and what is bought after what."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Category:
    """A kind of product.

    Attributes:
        name: As a shop would label it.
        price: Typical price.
        nouns: What its products are called.
        features: One of these distinguishes the products of one kind.
    """

    name: str
    price: float
    nouns: tuple[str, ...]
    features: tuple[str, ...]


@dataclass(frozen=True)
class Department:
    """Categories in the order in which people need them, and the brands that make them all.

    Attributes:
        name: As a shop would label it.
        brands: Each with its product lines.
        categories: Whoever has something of one soon wants something of the next.
    """

    name: str
    brands: dict[str, tuple[str, ...]]
    categories: tuple[Category, ...]


DEPARTMENTS = (
    Department(
        "Coffee",
        {
            "Brauhaus Nord": ("Fjord", "Klar", "Tiefe"),
            "Cremalto": ("Vita", "Sera", "Luce"),
            "Kettlewright": ("Copper", "Slate", "Harbour"),
        },
        (
            Category(
                "Espresso Machines",
                289.0,
                ("Espresso Machine", "Pump Espresso Maker"),
                ("15 bar", "dual boiler", "with steam wand", "compact"),
            ),
            Category(
                "Coffee Grinders",
                119.0,
                ("Burr Grinder", "Coffee Grinder"),
                ("conical burrs", "40 settings", "hand crank", "low noise"),
            ),
            Category(
                "Coffee Beans",
                17.0,
                ("Espresso Beans", "Whole Bean Coffee"),
                ("dark roast, 1 kg", "medium roast, 500 g", "single origin", "decaf"),
            ),
            Category(
                "Cups and Mugs",
                22.0,
                ("Espresso Cups", "Stoneware Mugs"),
                ("set of 2", "set of 4", "double wall", "350 ml"),
            ),
            Category(
                "Coffee Machine Care",
                13.0,
                ("Descaler", "Cleaning Tablets"),
                ("6 doses", "biodegradable", "250 ml", "for boilers"),
            ),
        ),
    ),
    Department(
        "Audio",
        {
            "Northbeam": ("Alto", "Strata", "Pulse"),
            "Oriel Sound": ("Canto", "Lumen", "Vox"),
            "Tessera": ("Quartz", "Onyx", "Opal"),
        },
        (
            Category(
                "Headphones",
                149.0,
                ("Over-Ear Headphones", "Wireless Headphones"),
                ("noise cancelling", "40 h battery", "foldable", "studio tuning"),
            ),
            Category(
                "Headphone Amplifiers",
                129.0,
                ("Headphone Amplifier", "USB DAC"),
                ("balanced output", "portable", "32 bit", "class A"),
            ),
            Category(
                "Audio Cables",
                24.0,
                ("Headphone Cable", "Audio Cable"),
                ("1.2 m", "braided, 3 m", "gold plated", "4.4 mm plug"),
            ),
            Category(
                "Ear Pads",
                19.0,
                ("Replacement Ear Pads", "Ear Cushions"),
                ("velour", "memory foam", "sheepskin", "cooling gel"),
            ),
            Category(
                "Headphone Stands",
                29.0,
                ("Headphone Stand", "Headphone Hanger"),
                ("walnut", "aluminium", "with USB hub", "clamp mount"),
            ),
        ),
    ),
    Department(
        "Camping",
        {
            "Ridgeway": ("Summit", "Col", "Traverse"),
            "Fernhollow": ("Moss", "Bracken", "Heath"),
            "Wildmere": ("Tarn", "Loch", "Beck"),
        },
        (
            Category(
                "Tents",
                199.0,
                ("Trekking Tent", "Dome Tent"),
                ("2 person", "3 person", "freestanding", "4 season"),
            ),
            Category(
                "Sleeping Bags",
                109.0,
                ("Down Sleeping Bag", "Mummy Sleeping Bag"),
                ("to -5 °C", "to 3 °C", "long", "ultralight"),
            ),
            Category(
                "Sleeping Mats",
                69.0,
                ("Inflatable Sleeping Mat", "Foam Mat"),
                ("insulated", "wide", "R value 4", "short"),
            ),
            Category(
                "Camp Stoves",
                49.0,
                ("Gas Stove", "Camp Stove"),
                ("piezo ignition", "with windshield", "95 g", "two burners"),
            ),
            Category(
                "Headlamps",
                35.0,
                ("Headlamp", "Camp Lantern"),
                ("400 lumens", "rechargeable", "red light", "waterproof"),
            ),
        ),
    ),
    Department(
        "Cycling",
        {
            "Velotrade": ("Corsa", "Gravia", "Urbana"),
            "Spokehouse": ("Sprint", "Tempo", "Cadence"),
            "Larkfield": ("Meadow", "Downs", "Chase"),
        },
        (
            Category(
                "Bike Helmets",
                79.0,
                ("Road Helmet", "Bike Helmet"),
                ("size M", "size L", "with visor", "rotational protection"),
            ),
            Category(
                "Bike Lights",
                45.0,
                ("Front Light", "Bike Light Set"),
                ("600 lumens", "USB-C", "dynamo", "daylight flash"),
            ),
            Category("Bike Locks", 55.0, ("Folding Lock", "U-Lock"), ("85 cm", "with bracket", "alarm", "level 12")),
            Category(
                "Bike Pumps",
                32.0,
                ("Floor Pump", "Mini Pump"),
                ("with gauge", "160 psi", "tubeless", "carbon"),
            ),
            Category(
                "Bike Care",
                14.0,
                ("Chain Oil", "Bike Cleaner"),
                ("wet weather", "dry weather", "500 ml", "wax"),
            ),
        ),
    ),
    Department(
        "Photography",
        {
            "Halden Optics": ("Meridian", "Zenith", "Azimuth"),
            "Focalis": ("Iris", "Prisma", "Spectra"),
            "Greyframe": ("Studio", "Reporter", "Atelier"),
        },
        (
            Category(
                "Cameras",
                749.0,
                ("Mirrorless Camera", "Compact Camera"),
                ("24 MP", "full frame", "4K video", "weather sealed"),
            ),
            Category(
                "Lenses",
                399.0,
                ("Prime Lens", "Zoom Lens"),
                ("35 mm f/1.8", "50 mm f/1.4", "24-70 mm", "macro"),
            ),
            Category(
                "Lens Filters",
                39.0,
                ("UV Filter", "Polarising Filter"),
                ("67 mm", "77 mm", "slim", "variable ND"),
            ),
            Category(
                "Tripods",
                129.0,
                ("Travel Tripod", "Carbon Tripod"),
                ("ball head", "1.1 kg", "170 cm", "flip lock"),
            ),
            Category(
                "Camera Bags",
                89.0,
                ("Camera Backpack", "Sling Bag"),
                ("15 l", "rain cover", "laptop sleeve", "waxed canvas"),
            ),
        ),
    ),
    Department(
        "Baking",
        {
            "Millstone": ("Rye", "Spelt", "Oat"),
            "Patina Home": ("Rose", "Sage", "Linen"),
            "Ovenbird": ("Crust", "Crumb", "Glaze"),
        },
        (
            Category(
                "Stand Mixers",
                249.0,
                ("Stand Mixer", "Kneading Machine"),
                ("5 l bowl", "800 W", "tilt head", "with dough hook"),
            ),
            Category(
                "Baking Tins",
                24.0,
                ("Loaf Tin", "Springform Tin"),
                ("26 cm", "non-stick", "enamel", "adjustable"),
            ),
            Category(
                "Flour and Yeast",
                8.0,
                ("Bread Flour", "Sourdough Starter"),
                ("1 kg", "stone ground", "organic", "type 550"),
            ),
            Category(
                "Kitchen Scales",
                29.0,
                ("Kitchen Scale", "Digital Scale"),
                ("0.1 g steps", "10 kg", "glass", "with timer"),
            ),
            Category(
                "Cooling and Storage",
                19.0,
                ("Cooling Rack", "Bread Box"),
                ("40 x 25 cm", "bamboo lid", "stackable", "ventilated"),
            ),
        ),
    ),
    Department(
        "Gardening",
        {
            "Greenholt": ("Orchard", "Hedgerow", "Potager"),
            "Spadework": ("Forge", "Anvil", "Temper"),
            "Verdanza": ("Terra", "Flora", "Silva"),
        },
        (
            Category(
                "Raised Beds",
                99.0,
                ("Raised Bed", "Planter Box"),
                ("120 x 60 cm", "larch", "steel", "with legs"),
            ),
            Category(
                "Potting Soil",
                15.0,
                ("Potting Soil", "Vegetable Compost"),
                ("40 l", "peat free", "organic", "for seedlings"),
            ),
            Category(
                "Seeds",
                5.0,
                ("Tomato Seeds", "Wildflower Seeds"),
                ("heirloom", "bee mix", "early", "20 grains"),
            ),
            Category(
                "Watering",
                39.0,
                ("Drip Irrigation Kit", "Watering Can"),
                ("10 l", "with timer", "copper rose", "20 m hose"),
            ),
            Category(
                "Garden Tools",
                34.0,
                ("Hand Trowel", "Pruning Shears"),
                ("ash handle", "bypass", "stainless", "left-handed"),
            ),
        ),
    ),
    Department(
        "Home Office",
        {
            "Deskwise": ("Pivot", "Level", "Axis"),
            "Plainwork": ("Birch", "Cedar", "Maple"),
            "Keystead": ("Basalt", "Chalk", "Flint"),
        },
        (
            Category(
                "Standing Desks",
                399.0,
                ("Standing Desk", "Desk Frame"),
                ("140 x 70 cm", "two motors", "memory keys", "corner"),
            ),
            Category(
                "Office Chairs",
                279.0,
                ("Ergonomic Chair", "Mesh Chair"),
                ("headrest", "lumbar support", "to 150 kg", "armless"),
            ),
            Category(
                "Keyboards",
                99.0,
                ("Mechanical Keyboard", "Low-Profile Keyboard"),
                ("tactile", "silent", "wireless", "split"),
            ),
            Category("Desk Mats", 25.0, ("Desk Mat", "Wrist Rest"), ("80 x 40 cm", "felt", "cork", "vegan leather")),
            Category(
                "Desk Lamps",
                59.0,
                ("Desk Lamp", "Monitor Light Bar"),
                ("dimmable", "2700-6500 K", "clamp", "wireless charging"),
            ),
        ),
    ),
    Department(
        "Running",
        {
            "Stridewell": ("Swift", "Glide", "Surge"),
            "Fellrun": ("Scree", "Crag", "Ghyll"),
            "Paceline": ("Metro", "Marathon", "Relay"),
        },
        (
            Category(
                "Running Shoes",
                129.0,
                ("Running Shoes", "Trail Shoes"),
                ("neutral", "cushioned", "8 mm drop", "waterproof"),
            ),
            Category(
                "Running Socks",
                15.0,
                ("Running Socks", "Compression Socks"),
                ("2 pairs", "merino", "no-show", "padded"),
            ),
            Category(
                "Running Jackets",
                89.0,
                ("Running Jacket", "Running Vest"),
                ("windproof", "reflective", "packable", "hooded"),
            ),
            Category(
                "Sports Watches",
                219.0,
                ("GPS Watch", "Running Watch"),
                ("heart rate", "14 days battery", "42 mm", "with maps"),
            ),
            Category(
                "Hydration",
                39.0,
                ("Hydration Belt", "Soft Flask"),
                ("500 ml", "leakproof", "with pocket", "2 l bladder"),
            ),
        ),
    ),
    Department(
        "Board Games",
        {
            "Tablestone": ("Dynasty", "Caravan", "Citadel"),
            "Owl and Die": ("Midnight", "Fable", "Whisper"),
            "Hexwood": ("Frontier", "Archipelago", "Guild"),
        },
        (
            Category(
                "Strategy Games",
                49.0,
                ("Strategy Board Game", "Civilisation Game"),
                ("2-4 players", "90 minutes", "solo mode", "deluxe"),
            ),
            Category(
                "Game Expansions",
                29.0,
                ("Expansion", "Scenario Pack"),
                ("fifth player", "new maps", "campaign", "mini"),
            ),
            Category(
                "Card Sleeves",
                9.0,
                ("Card Sleeves", "Deck Box"),
                ("100 pieces", "matte", "63.5 x 88 mm", "80 cards"),
            ),
            Category("Dice", 14.0, ("Dice Set", "Dice Tower"), ("7 pieces", "metal", "resin", "walnut tray")),
            Category(
                "Game Storage",
                35.0,
                ("Game Insert", "Game Bag"),
                ("birch plywood", "padded", "stackable trays", "with strap"),
            ),
        ),
    ),
)

COLOURS = (
    "Black", "White", "Midnight Blue", "Forest Green", "Sand", "Graphite", "Burgundy", "Cream", "Silver",
    "Rust", "Sky Blue", "Olive",
)  # fmt: skip
