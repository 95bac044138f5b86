"""Lexicon of text normalization: currencies, units, months, abbreviations, as tables."""


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
    $, US$, USD: dollar
    C$, CA$, CAD: Canadian dollar
    A$, AU$, AUD: Australian dollar
    NZ$, NZD: New Zealand dollar
    HK$, HKD: Hong Kong dollar
    S$, SGD: Singapore dollar
    R$, BRL: Brazilian real / Brazilian reais
    MXN: Mexican peso
    €, EUR: euro
    £, GBP: pound
    ¥, JPY: yen / yen
    CNY, RMB: yuan / yuan
    ₹, INR: rupee
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
    PLN: zloty / zloty
    ZAR: rand / rand
    ¢: cent
""")
# Names of a hundredth, singular and plural; without one, decimals are spelled as decimals.
CENTS = _table("""
    dollar, euro, Canadian dollar, Australian dollar, New Zealand dollar, Hong Kong dollar: cent
    Singapore dollar, rand: cent
    pound: penny / pence
    rupee: paisa / paise
    Swiss franc: centime
    Mexican peso, peso, Brazilian real: centavo
    ruble: kopeck
""")
SCALES = {
    **dict.fromkeys(("k", "K", "thousand"), "thousand"),
    **dict.fromkeys(("m", "M", "mn", "mm", "MM", "mil", "million"), "million"),
    **dict.fromkeys(("b", "B", "bn", "Bn", "bil", "billion"), "billion"),
    **dict.fromkeys(("t", "T", "tn", "trillion"), "trillion"),
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
    km²: square kilometer
    m², sqm: square meter
    cm²: square centimeter
    ft², sqft, sq ft, sq. ft: square foot / square feet
    sq mi, mi²: square mile
    m³: cubic meter
    cm³, cc: cubic centimeter
    ft³, cu ft: cubic foot / cubic feet
    kg, kgs: kilogram
    g: gram
    mg: milligram
    µg, μg, mcg: microgram
    lb, lbs: pound
    oz: ounce
    fl oz: fluid ounce
    L, l: liter
    mL, ml: milliliter
    cl: centiliter
    gal: gallon
    qt: quart
    tsp: teaspoon
    tbsp, Tbsp: tablespoon
    mph: mile per hour / miles per hour
    kph, kmh: kilometer per hour / kilometers per hour
    mpg: mile per gallon / miles per gallon
    rpm, RPM: revolution per minute / revolutions per minute
    bpm, BPM: beat per minute / beats per minute
    fps: frame per second / frames per second
    psi: pound per square inch / pounds per square inch
    kt, kts: knot
    h, hr, hrs: hour
    min, mins: minute
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
    mA: milliamp
    mAh: milliamp hour
    Ω: ohm
    kJ: kilojoule
    kcal: kilocalorie
    cal: calorie
    hp: horsepower / horsepower
    dB: decibel
    px: pixel
    MP: megapixel
    dpi: dot per inch / dots per inch
    °C, ° C: degree Celsius / degrees Celsius
    °F, ° F: degree Fahrenheit / degrees Fahrenheit
    °: degree
    %: percent / percent
    ‰: per mille / per mille
""")
# Units only where the number touches them: after a space they are words, names or grades.
TOUCHING_UNITS = frozenset(["V", "W", "cc"])
# Names that may follow a slash or "per", besides the units.
PER = {
    **{name: one for name, (one, _) in UNITS.items() if name.isalpha()},
    **{"d": "day", "day": "day", "month": "month", "hour": "hour", "minute": "minute"},
    **{"year": "year", "week": "week", "night": "night", "user": "user", "person": "person"},
    **{"second": "second", "y": "year", "unit": "unit", "each": "each", "seat": "seat"},
    **{"dL": "deciliter", "dl": "deciliter"},
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
    "Mt": "Mount",
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
}
ABBREVIATIONS = {
    "vs": "versus",
    "etc": "et cetera",
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
    "est": "established",
    "Est": "Established",
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
    "ref": "reference",
    "Ref": "Reference",
    "hrs": "hours",
    "lbs": "pounds",
}
# Only before a number.
NUMBERED = {
    "No": "number",
    "no": "number",
    "Nos": "numbers",
    "nos": "numbers",
    "p": "page",
    "pp": "pages",
    "Ch": "Chapter",
    "ch": "chapter",
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
    "Rt": "Route",
    "Fl": "Floor",
}
