"""Twenty things people say on the phone: 5 to 14 words each, nothing that must be spelled out."""

SENTENCES: tuple[str, ...] = (
    "Good morning, how can I help you today?",
    "Please hold the line while I look that up.",
    "Could you give me your full name, please?",
    "I am sorry to hear that your order is late.",
    "Your table is booked for tomorrow evening.",
    "Let me check whether the doctor is free on Friday.",
    "The package should arrive at your house before noon.",
    "Would you like to speak with someone in our sales office?",
    "I can send you a message with the address.",
    "The store is open every day until ten in the evening.",
    "Can you tell me what happened with your car?",
    "We will call you back as soon as the work is done.",
    "Your payment has been received, and nothing more is due.",
    "It looks like the train from the city is running late.",
    "Please say yes if that is right, or no if it is not.",
    "The weather will be warm and dry for the whole week.",
    "There is a small problem with the number you gave me.",
    "I have changed the time of your visit to three in the afternoon.",
    "Is there anything else that I can do for you?",
    "Thank you for calling, and have a wonderful day.",
)
