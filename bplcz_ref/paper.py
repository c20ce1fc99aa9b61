"""What the paper states, as constants, each with its section. This file imports and computes nothing.

The paper: "Band Prompting Aided SAR and Multi-Spectral Data Fusion Framework for Local Climate Zone
Classification" (BP-LCZ), arXiv 2412.18235. What the paper leaves open is not here: each reading is named where it
is chosen (docs/readings.md lists them).
"""

ARXIV = "2412.18235"

# II-A, the seven band groups in the order of II-B1; bands are 1-based within their sensor, as printed.
GROUPS: dict[str, dict] = {
    "RGB": {"sensor": "sen2", "bands": (1, 2, 3), "text": "red green blue"},
    "VRE": {"sensor": "sen2", "bands": (4, 5, 6, 8), "text": "vegetation red edge"},
    "NIR": {"sensor": "sen2", "bands": (7,), "text": "near infrared"},
    "SWIR": {"sensor": "sen2", "bands": (9, 10), "text": "short wave infrared"},
    "VH": {"sensor": "sen1", "bands": (1, 2, 5), "text": "vh"},
    "VV": {"sensor": "sen1", "bands": (3, 4, 6), "text": "vv"},
    "PolSAR": {"sensor": "sen1", "bands": (7, 8), "text": "pol"},
}

# III-A: patches of 32 x 32 pixels, 8 SAR and 10 multi-spectral channels.
PATCH = 32
CHANNELS = {"sen1": 8, "sen2": 10}

# I and Table I: the 17 classes of the local climate zone scheme, in the order of So2Sat's one-hot labels.
# fmt: off
CLASSES = (
    ("1", "compact high-rise"), ("2", "compact mid-rise"), ("3", "compact low-rise"), ("4", "open high-rise"),
    ("5", "open mid-rise"), ("6", "open low-rise"), ("7", "lightweight low-rise"), ("8", "large low-rise"),
    ("9", "sparsely built"), ("10", "heavy industry"), ("A", "dense trees"), ("B", "scattered trees"),
    ("C", "bush or scrub"), ("D", "low plants"), ("E", "bare rock or paved"), ("F", "bare soil or sand"),
    ("G", "water"),
)
# fmt: on
BUILT = 10  # I: "10 built types and 7 land cover types", built types first

# II-B1: the prompt template, and the three descriptions that Table I gives, by class ID, word for word.
TEMPLATE = "a photo of a {class} with {group} bands"
DESCRIPTIONS = {
    "1": "dense clusters of vertical edifices with limited spatial gaps, representing urban centers",
    "9": "areas with minimal building density, characterized by isolated structures and significant open spaces",
    "G": "bodies of water such as rivers, lakes, or seas, appearing as uniform blue areas on images",
}
# II-B1: the prompt that the paper prints for the RGB group of class G.
EXAMPLE_PROMPT = (
    "a photo of a bodies of water such as rivers, lakes, or seas, appearing as uniform blue areas on images "
    "with red green blue bands"
)

# III-A: implementation.
EPOCHS = 200
LEARNING_RATE = 0.0001
MOMENTUM = 0.9
WEIGHT_DECAY = 0.002
BATCH = 32
ALPHA = 0.25
BETA = 2
SEED = 47

# III-A: the data set, both parts drawn from So2Sat LCZ42's training file, without intersection.
TRAIN_PER_CLASS = 1306
TEST = 12117

# Table II: overall accuracy and kappa, in percent.
TABLE_II = {
    "ResNet50": (51.14, 47.10),
    "ResNeXt": (53.68, 49.69),
    "ConvNeXt": (62.84, 59.49),
    "DenseNet121": (64.74, 61.68),
    "ExViT": (77.21, 75.10),
    "ExViT (BP-LCZ)": (79.85, 77.91),
    "EB-CNN": (79.29, 77.39),
    "EB-CNN (BP-LCZ)": (86.69, 85.40),
}

# Table III: (band group prompting, multivariate supervised matrix) -> overall accuracy and kappa, in percent.
TABLE_III = {
    (False, False): (79.29, 77.39),
    (True, False): (86.15, 84.81),
    (True, True): (86.69, 85.40),
}
