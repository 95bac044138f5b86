"""Lexicon of the text front end: currencies, units, months, abbreviations, as tables.

The segmenter reads the abbreviations, too: it must never end a sentence where a rule of the
normalization expands one.
"""


def words(text: str) -> list[str]:
    """Split a text of space-separated words into a list."""
    return text.split()


def _table(text: str) -> dict[str, tuple[str, str]]:
    """Read lines of "written, written...: one / many"; "many" is "one" with an s unless given."""
    table = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        names, _, words = line.partition(": ")
        one, _, many = words.partition(" / ")
        table.update(dict.fromkeys(names.split(", "), (one, many or f"{one}s")))
    return table


CURRENCIES = _table("""
    $, US$, USD$, USD $, USD: dollar
    C$, CA$, CAD$, CAD $, CAD: Canadian dollar
    A$, AU$, AUD$, AUD $, AUD: Australian dollar
    NZ$, NZD: New Zealand dollar
    HK$, HKD: Hong Kong dollar
    S$, SGD: Singapore dollar
    R$, BRL: Brazilian real / Brazilian reais
    MX$, Mex$, MXN: Mexican peso
    NT$, TWD: Taiwan dollar
    J$, JMD: Jamaican dollar
    €, EUR: euro
    £, GBP: pound
    ¥, JPY: yen / yen
    CNY, RMB: yuan / yuan
    ₹, INR, Rs., Rs, Re.: rupee
    ₩, KRW: won / won
    ₽: ruble
    ₪: shekel
    ₺: lira / lira
    ₴, UAH: hryvnia
    ₫, VND: dong / dong
    ₦, NGN: naira / naira
    ₱: peso
    ฿, THB: baht / baht
    ₿, BTC: bitcoin
    CHF: Swiss franc
    SEK: Swedish krona / Swedish kronor
    NOK: Norwegian krone / Norwegian kroner
    DKK: Danish krone / Danish kroner
    PLN, zł: zloty / zloty
    ZAR: rand / rand
    CZK, Kč: Czech koruna / Czech korunas
    HUF: forint / forint
    AED, Dhs, Dh: dirham
    SAR: riyal
    QAR: Qatari riyal
    KWD: Kuwaiti dinar
    ILS: shekel
    kr: krone / kroner
    RUB: ruble
    THB: baht / baht
    Php: Philippine peso
    IDR, Rp: rupiah / rupiah
    MYR, RM: ringgit / ringgit
    PKR: Pakistani rupee
    LKR: Sri Lankan rupee
    KES, KSh, Ksh: Kenyan shilling
    GHS, GH₵, ₵: cedi
    EGP: Egyptian pound
    ARS: Argentine peso
    CLP: Chilean peso
    USDT: USDT / USDT
    ETH: ether / ether
    ৳: taka / taka
    ₸: tenge / tenge
    ₾: lari / lari
    ₭: kip / kip
    ₮: tugrik
    ₡: colon
    ₲: guarani
    ₼: manat
    ៛: riel
    ֏: dram
    ƒ: florin
    ₨: rupee
    ¤: unit of currency / units of currency
    ¢: cent
""")
# Names of a hundredth, singular and plural; without one, decimals are spelled as decimals.
CENTS = _table("""
    dollar, euro, Canadian dollar, Australian dollar, New Zealand dollar, Hong Kong dollar: cent
    Singapore dollar, rand, Taiwan dollar, Jamaican dollar: cent
    pound: penny / pence
    rupee: paisa / paise
    Swiss franc: centime
    Mexican peso, peso, Brazilian real: centavo
    ruble: kopeck
    dirham: fils / fils
    Egyptian pound: piaster
    zloty: grosz / groszy
    shekel: agora / agorot
    cedi: pesewa
    Pakistani rupee: paisa / paise
    Philippine peso, Argentine peso: centavo
""")
SCALES = {
    **dict.fromkeys(("k", "K", "thousand"), "thousand"),
    **dict.fromkeys(("m", "M", "mn", "mm", "MM", "mil", "Mio", "mio", "million"), "million"),
    **dict.fromkeys(("b", "B", "bn", "Bn", "bil", "Mrd", "billion"), "billion"),
    **dict.fromkeys(("t", "T", "tn", "trillion"), "trillion"),
    **dict.fromkeys(("L", "lac", "lacs", "lakh", "lakhs"), "lakh"),
    **dict.fromkeys(("Cr", "cr", "crore", "crores"), "crore"),
    "hundred": "hundred",
}
UNITS = _table("""
    km, kms: kilometer
    m: meter
    cm: centimeter
    mm: millimeter
    µm, μm: micrometer
    nm: nanometer
    mi: mile
    yd, yds: yard
    ft: foot / feet
    in: inch / inches
    km², sq km, sq. km: square kilometer
    m², sqm, sq m, sq. m: square meter
    cm²: square centimeter
    ft², sqft, sq ft, sq. ft: square foot / square feet
    sq in, sq. in, in²: square inch / square inches
    sq yd, sq. yd, sq yds: square yard
    sq mi, sq. mi, mi²: square mile
    m³, cu m: cubic meter
    cm³, cc: cubic centimeter
    ft³, cu ft, cu. ft: cubic foot / cubic feet
    ha: hectare
    kn: knot
    nmi: nautical mile
    kg, kgs: kilogram
    g, gm, gms: gram
    mg: milligram
    µg, μg, mcg: microgram
    lb, lbs: pound
    oz: ounce
    fl oz, fl. oz: fluid ounce
    L, l: liter
    mL, ml: milliliter
    cl: centiliter
    gal: gallon
    qt, qts: quart
    pt: pint
    pts: point
    doz: dozen / dozen
    pcs: piece
    tsp, tsps: teaspoon
    tbsp, Tbsp, tbsps: tablespoon
    mph: mile per hour / miles per hour
    kph, kmh, kmph: kilometer per hour / kilometers per hour
    mpg: mile per gallon / miles per gallon
    rpm, RPM: revolution per minute / revolutions per minute
    bps: basis point
    bpm, BPM: beat per minute / beats per minute
    fps: frame per second / frames per second
    psi: pound per square inch / pounds per square inch
    kt, kts: knot
    h, hr, Hr, hrs, Hrs: hour
    min, Min, mins, Mins: minute
    s, sec, secs: second
    ms: millisecond
    µs, μs: microsecond
    ns: nanosecond
    yr, yrs: year
    mo, mos: month
    wk, wks: week
    KB, kB, KiB: kilobyte
    MB, MiB: megabyte
    GB, GiB: gigabyte
    TB, TiB: terabyte
    PB, PiB: petabyte
    Kb, kb: kilobit
    Mb: megabit
    Gb: gigabit
    kbps, Kbps: kilobit per second / kilobits per second
    Mbps: megabit per second / megabits per second
    Gbps: gigabit per second / gigabits per second
    Hz: hertz / hertz
    kHz: kilohertz / kilohertz
    MHz: megahertz / megahertz
    GHz: gigahertz / gigahertz
    W: watt
    kW: kilowatt
    MW: megawatt
    GW: gigawatt
    Wh: watt hour
    kWh, kwh: kilowatt hour
    MWh: megawatt hour
    V: volt
    mV: millivolt
    kV: kilovolt
    mW: milliwatt
    mA: milliamp
    mAh: milliamp hour
    Ah: amp hour
    kVA: kilovolt ampere
    Nm: newton meter
    kPa: kilopascal
    hPa: hectopascal
    mmHg: millimeter of mercury / millimeters of mercury
    mmol: millimole
    mEq: milliequivalent
    IU: international unit
    ppm: part per million / parts per million
    ppb: part per billion / parts per billion
    Ω: ohm
    kJ: kilojoule
    kcal: kilocalorie
    cal: calorie
    hp: horsepower / horsepower
    dB, dBA: decibel
    px: pixel
    MP: megapixel
    dpi: dot per inch / dots per inch
    °C, ° C: degree Celsius / degrees Celsius
    °F, ° F: degree Fahrenheit / degrees Fahrenheit
    °: degree
    %, pct: percent / percent
    ‰: per mille / per mille
""")
# Units only where the number touches them: after a space they are words, names or grades.
TOUCHING_UNITS = frozenset(["V", "W", "cc", "kn", "IU", "ha"])
# Letters that are units only where no noun of `NUMBERED_NOUNS` stands before the number.
LETTER_UNITS = frozenset(["m", "g", "L", "l", "h", "s", "V", "W", "F", "C"])
# Units of goods before a plural noun ("twelve ounce cans"), and units of extent before any noun
# ("twenty foot container"); of goods there may be some: "five milliliters water".
ADJECTIVE_UNITS = frozenset(words("oz lb lbs ml mL L mg gal"))
EXTENT_UNITS = frozenset(
    words("""
    ft in yd cm mm m km mi V kV W kW mAh Wh kWh GB MB TB MP Hz MHz GHz px yr yrs hr hrs min sec secs
    mph kg
""")
)
# Names that may follow a slash or "per", besides the units.
PER = {
    **{name: one for name, (one, _) in UNITS.items() if name.isalpha()},
    **{"d": "day", "day": "day", "month": "month", "hour": "hour", "minute": "minute"},
    **{"year": "year", "week": "week", "night": "night", "user": "user", "person": "person"},
    **{"second": "second", "y": "year", "unit": "unit", "each": "each", "seat": "seat"},
    **{"dL": "deciliter", "dl": "deciliter", "mon": "month", "wk": "week", "car": "car"},
    **{"head": "head", "pax": "person", "item": "item", "call": "call", "ea": "each"},
    **{"pp": "person", "point": "point", "guest": "guest", "room": "room", "ticket": "ticket"},
    **{"page": "page", "mile": "mile", "gallon": "gallon", "pound": "pound", "kid": "kid"},
    **{"visit": "visit", "session": "session", "class": "class", "piece": "piece", "box": "box"},
    **{"line": "line", "device": "device", "license": "license", "token": "token", "pc": "piece"},
}

MONTHS = words("""
    January February March April May June July August September October November December
""")
WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]

# Without the stop, which each of them requires.
TITLES = {
    "Mr": "Mister",
    "Mrs": "Missus",
    "Ms": "Miz",
    "Dr": "Doctor",
    "Drs": "Doctors",
    "Prof": "Professor",
    "Rev": "Reverend",
    "Hon": "Honorable",
    "Gen": "General",
    "Col": "Colonel",
    "Maj": "Major",
    "Capt": "Captain",
    "Cmdr": "Commander",
    "Lt": "Lieutenant",
    "Sgt": "Sergeant",
    "Cpl": "Corporal",
    "Pvt": "Private",
    "Gov": "Governor",
    "Sen": "Senator",
    "Rep": "Representative",
    "Pres": "President",
    "Supt": "Superintendent",
    "Messrs": "Messieurs",
    "Fr": "Father",
    "Adm": "Admiral",
    "Amb": "Ambassador",
    "Atty": "Attorney",
    "Det": "Detective",
    "Insp": "Inspector",
    "Mx": "Mix",
    "Mt": "Mount",
    "Pt": "Point",
    "Ft": "Fort",
    "St": "Saint",
}
STREETS = {
    "St": "Street",
    "Ave": "Avenue",
    "Blvd": "Boulevard",
    "Rd": "Road",
    "Ln": "Lane",
    "Dr": "Drive",
    "Ct": "Court",
    "Pl": "Place",
    "Sq": "Square",
    "Pkwy": "Parkway",
    "Hwy": "Highway",
    "Ter": "Terrace",
    "Cir": "Circle",
    "Fwy": "Freeway",
    "Expy": "Expressway",
    "Tpke": "Turnpike",
    "Trl": "Trail",
    "Aly": "Alley",
    "Hts": "Heights",
    "Xing": "Crossing",
}
ABBREVIATIONS = {
    "vs": "versus",
    "etc": "et cetera",
    "acct": "account",
    "Acct": "Account",
    "accts": "accounts",
    "addr": "address",
    "amt": "amount",
    "Amt": "Amount",
    "asst": "assistant",
    "Asst": "Assistant",
    "attn": "attention",
    "Attn": "Attention",
    "bldg": "building",
    "conf": "confirmation",
    "Conf": "Confirmation",
    "cont": "continued",
    "msg": "message",
    "msgs": "messages",
    "Ph": "Phone",
    "Lat": "Latitude",
    "mfr": "manufacturer",
    "utils": "utilities",
    "dist": "distance",
    "hosp": "hospital",
    "Hosp": "Hospital",
    "Ctr": "Center",
    "Div": "Division",
    "doz": "dozen",
    "excl": "excluding",
    "Excl": "Excluding",
    "incl": "including",
    "Incl": "Including",
    "Ins": "Insurance",
    "Jct": "Junction",
    "mgr": "manager",
    "Mgr": "Manager",
    "Mfg": "Manufacturing",
    "mtg": "meeting",
    "Mtg": "Meeting",
    "orig": "original",
    "Orig": "Original",
    "pkg": "package",
    "Pkg": "Package",
    "prev": "previous",
    "reg": "regular",
    "req": "required",
    "resv": "reservation",
    "std": "standard",
    "thru": "through",
    "Twp": "Township",
    "wt": "weight",
    "ht": "height",
    "approx": "approximately",
    "Approx": "Approximately",
    "Inc": "Incorporated",
    "Ltd": "Limited",
    "Corp": "Corporation",
    "Co": "Company",
    "Cos": "Companies",
    "Bros": "Brothers",
    "Jr": "Junior",
    "Sr": "Senior",
    "Esq": "Esquire",
    "Dept": "Department",
    "dept": "department",
    "Univ": "University",
    "Assn": "Association",
    "Assoc": "Associates",
    "Intl": "International",
    "Natl": "National",
    "Govt": "Government",
    "govt": "government",
    "Apt": "Apartment",
    "apt": "apartment",
    "Ste": "Suite",
    "Rm": "Room",
    "Bldg": "Building",
    "Ext": "Extension",
    "ext": "extension",
    "Tel": "Telephone",
    "tel": "telephone",
    "est": "estimated",
    "Est": "Estimated",
    "avg": "average",
    "Avg": "Average",
    "misc": "miscellaneous",
    "Misc": "Miscellaneous",
    "al": "others",
    "cf": "compare",
    "viz": "namely",
    "Fig": "Figure",
    "fig": "figure",
    "Figs": "Figures",
    "figs": "figures",
    "Vol": "Volume",
    "vol": "volume",
    "Vols": "Volumes",
    "Ave": "Avenue",
    "Blvd": "Boulevard",
    "Rd": "Road",
    "Hwy": "Highway",
    "Pkwy": "Parkway",
    "appt": "appointment",
    "Appt": "Appointment",
    "qty": "quantity",
    "Qty": "Quantity",
    "temp": "temperature",
    "Temp": "Temperature",
    "ea": "each",
    "arr": "arrival",
    "dep": "departure",
    "Arr": "Arrival",
    "Dep": "Departure",
    "ref": "reference",
    "Ref": "Reference",
    "hrs": "hours",
    "lbs": "pounds",
    "yrs": "years",
    "mins": "minutes",
    "secs": "seconds",
    "mos": "months",
    "wks": "weeks",
}
# Only before a number or a single letter.
NUMBERED = {
    "No": "number",
    "no": "number",
    "Nos": "numbers",
    "nos": "numbers",
    "p": "page",
    "pp": "pages",
    "Ch": "Chapter",
    "ch": "chapter",
    "Sc": "Scene",
    "Sec": "Section",
    "sec": "section",
    "Art": "Article",
    "Eq": "Equation",
    "Pt": "Part",
    "Ver": "Version",
    "ver": "version",
    "ca": "circa",
    "c": "circa",
    "Rte": "Route",
    "rte": "route",
    "Rt": "Route",
    "rt": "route",
    "Fl": "Floor",
    "Fig": "Figure",
    "fig": "figure",
    "Figs": "Figures",
    "Vol": "Volume",
    "Hwy": "Highway",
    "hwy": "highway",
    "Bldg": "Building",
    "bldg": "building",
    "Apt": "Apartment",
    "apt": "apartment",
    "Ste": "Suite",
    "ste": "suite",
    "Rm": "Room",
    "rm": "room",
    "Pg": "Page",
    "pg": "page",
    "pgs": "pages",
    "para": "paragraph",
    "max": "maximum",
    "Max": "Maximum",
    "min": "minimum",
    "Min": "Minimum",
    "ext": "extension",
    "Ext": "Extension",
}
# Those that a single letter may follow, too: "Apt. C".
LETTERED = frozenset(words("Bldg bldg Apt apt Ste ste Rm rm Fig Figs fig Sec Pt Ext Vol Hwy Rte"))

# Parts of an address that follow the street.
ADDRESS_UNITS = words("Apt Apartment Suite Ste Unit Floor Fl Room Rm Bldg Building")

# Nouns that a number or letter names; the number is a label, not a count.
NUMBERED_NOUNS = words("""
    Seat Gate Table Exit Apt Apartment Suite Ste Unit Row Floor Section Exhibit Form Room Rm Bldg
    Building Terminal Dock Bay Lot Space Stall Zone Pier Platform Track Berth Aisle Locker Box Bed
    Ward Route Rte Highway Hwy Bus Train Flight Bin Shelf Door Block Hall Wing Lane Booth Cabin
    Court Grade Type Model Part Step Appendix Figure Fig Page Item Option Question Channel Level
    Size Serial Number Number Pump Stand Slot Pod Desk Counter Window Area Sector Deck Site Plot
    Station Stop Coach Car Carriage Chapter Schedule Sheet Chart Line Locations Seats Gates Tables
    Rows Rooms Units Exits Apartments Suites Boeing Airbus
""")

# How a sentence may end at an abbreviation; without their last stop. Case matters: "Sat." is a
# day, "sat." ends a sentence.
JOINING = frozenset(
    words("""
        vs v cf viz c ca approx Approx e.g i.e E.g I.e eg ie incl Incl excl Excl Rs Re mr mrs ms
        dr prof Mio Mrd
    """)
) | (TITLES.keys() - {"St"})
"""Abbreviations that never end a sentence."""
BEFORE_NUMBERS = frozenset(words("No Nos no nos"))
"""Words that are abbreviations before a number, and ordinary words elsewhere."""
ENDING = frozenset(words("a.m p.m A.M P.M etc"))
"""Abbreviations that end a sentence before a capital, unless it is a day, month or zone."""
AFTER_NUMBERS = frozenset([name for name in UNITS if name.isalpha()] + ["sq", "cu", "fl"])
"""Abbreviations of units after a number, and ordinary words or none elsewhere."""
AMBIGUOUS = (
    frozenset(
        words("""
            Sq Co LLC ft lb lbs oz hr tsp tbsp Tbsp yr yd yds al p pp Mon Tue Tues Wed Thu Thur
            Thurs Fri Sat Sun Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec st ave blvd rd hwy
            pkwy exp Exp
        """)
    )
    | STREETS.keys()
    | ABBREVIATIONS.keys()
    | NUMBERED.keys()
    | frozenset(["St"])
) - (JOINING | BEFORE_NUMBERS | ENDING)
"""Abbreviations that end a sentence only before a word that begins sentences."""
AFTER_TIMES = frozenset(
    words("""
    Monday Tuesday Wednesday Thursday Friday Saturday Sunday January February March April May June
    July August September October November December Eastern Central Mountain Pacific Atlantic
    ET CT MT PT EST EDT CST CDT MST MDT PST PDT GMT UTC BST CET CEST
""")
)
"""Days, months and zones, which may follow a time of day."""
STARTING = frozenset(
    words("""
    The A An This That These Those There Here It He She We You They I My Your His Her Our Their Its
    If When While Where Who What Why How Which Then But And Or So Because Since After Before
    Although However Also Just Please Let Yes No Not Now Once Still In On At For From With To As By
    Is Are Was Were Do Does Did Can Could Would Should Have Has Had Thank Thanks Sorry Maybe
    Perhaps Meanwhile Next Finally Later Today Tomorrow Yesterday Everyone Nobody Some Many Most
    All Each Both Okay OK Sure Well Hello Hi
""")
)
"""Words that often begin sentences."""

STATES = [
    *words("""
    Alabama Alaska Arizona Arkansas California Colorado Connecticut Delaware Florida Georgia Hawaii
    Idaho Illinois Indiana Iowa Kansas Kentucky Louisiana Maine Maryland Massachusetts Michigan
    Minnesota Mississippi Missouri Montana Nebraska Nevada Ohio Oklahoma Oregon Pennsylvania
    Tennessee Texas Utah Vermont Virginia Washington Wisconsin Wyoming Ontario Quebec Manitoba
    England Scotland Wales Ireland France Germany Spain Italy Japan India Canada Australia Mexico
    Brazil China USA UK
"""),
    *("New York", "New Jersey", "New Mexico", "New Hampshire", "North Carolina", "South Carolina"),
    *("North Dakota", "South Dakota", "West Virginia", "Rhode Island", "New Zealand"),
]
"""States and countries that follow the name of a town."""

TOP_LEVELS = words("""
    com org net edu gov mil int info biz name io ai app dev co me tv us uk ca au nz ie de fr es
    it nl be ch at se no dk fi pl pt cz gr ru ua tr il in cn jp kr hk tw sg my ph th vn id br mx
    ar cl za ng ke eu online shop store site tech cloud health care live xyz page blog news ly
    gg so law pizza cafe coffee restaurant bar pub kitchen catering recipes menu beer wine vodka
    bakery agency academy apartments associates auction band bank bargains bike bingo boutique
    build builders business cab camera camp capital cards careers cash chat cheap church city
    claims cleaning clinic clothing club codes community company computer condos construction
    consulting contractors cool coupons credit cruises dance dating deals delivery dental
    dentist design diamonds digital direct directory discount doctor dog domains education email
    energy engineer engineering estate events exchange expert express farm finance financial
    fish fit fitness flights florist flowers football fund furniture gallery games garden gift
    gifts glass global golf graphics gratis green group guide guitars guru hair haus holdings
    holiday homes horse hospital hosting hotel house icu immo industries ink institute insure
    international investments jewelry jobs kim land lawyer legal life lighting limited limo link
    loans lol love ltd luxury maison management market marketing mba media menu moda money
    mortgage museum network ngo ninja observer one organic partners parts photo photography
    photos pictures plumbing plus press pro productions properties property realty recipes red
    rehab rent rentals repair report rest rip rocks run sale salon school schule science
    security services shoes show ski social software solar solutions space studio style supplies
    supply support surf surgery systems tattoo tax taxi team technology tennis theater tips
    tires today tools tours town toys trade training travel tube university vacations ventures
    vet video villas vip vision voyage watch website wedding wiki work works world wtf yoga zone
    cc fm fyi asia africa berlin london nyc paris tokyo
""")
FILE_ENDINGS = frozenset(
    words("""
    py js ts json html htm css md txt pdf csv xml yaml yml toml zip exe png jpg jpeg gif mp3 mp4 wav
    doc docx xls xlsx ppt pptx sh java rb go rs cpp svg webp mov avi tsx jsx ini log tar gz bak sql
    ics vcf apk dmg iso bin env lock php
""")
)

# First parts of place names such as "Port St. Lucie"; alone, "West St." is a street.
NAME_PARTS = words("""
    Port Mount Mt Fort Ft Lake Bay East West North South Cape Sault Upper Lower
""")
# Words after which "Dr." and "St." begin a name, though they are capitalized themselves.
NAME_VERBS = frozenset(
    words("""
    See Call Ask Tell Visit Meet Thank Contact Text Email Let Dear Hi Hello In At On To From Near
    And Or But For With By Of Via Is Was Has Our Your My The Then When If Attn Yes No Sir Dame Hey
    Welcome Also Both
""")
) | frozenset(NAME_PARTS)
FUNCTION_WORDS = frozenset(
    words("""
    of to in from on at by for with and or but nor is are was were be been being has have had do
    does did will would can could should may might must a an the this that these those it he she we
    you they i me him her us them my your his our their its if when while as than then so because
    before since after until till about above below under over between through during without
    within against into onto off out up down away apart ago long tall wide deep high thick heavy old
    more less fewer each per plus minus times not no only just now here there today tomorrow
    yesterday tonight later early late every which who whom whose what where why how too also still
    already again max min total left right back north south east west further farther faster slower
    longer shorter taller both all any some most extra remaining ahead along past via straight
    across always besides afterwards towards sometimes yes thus perhaps takes costs weighs equals
    works versus vs remains means says owes goes gets makes needs comes seems looks x free flat
    cheaper warmer colder higher lower bigger smaller away around alone altogether apiece
    home please thanks apiece uphill downhill upstream downstream indoors outdoors offshore inland
    went ran came became took left tops around
    annually monthly weekly daily hourly yearly upfront upwards downwards next last
""")
)
"""Words that follow a quantity without being its noun."""
