"""The clauses of each operation, as a careful specification would list them, and what shows that each is kept.

    CLAUSES[op][clause] = (case, wrong readings)

Violating a clause as its wrong readings do changes the answer to the case by more than ten budgets of float32.
Every wrong reading of the kit stands at exactly one clause. `conform selftest` proves the pairing from the
vectors, and docs/clauses.md shows the table. An accepted difference stands here too: its clause is that it
is no mistake.
"""

import re

from bplcz_ref.conform.kit import Kit
from bplcz_ref.conform.wrong import WRONG

# Under their operations: clause | case | wrong reading; wrong reading. What is indented further continues a row.
TABLE = """
read_array
  data are row-major | digits | data taken as column-major
  shape lists the slowest axis first | digits | axes counted from the last, as in Julia or Fortran
band_groups
  bands are counted from 1 | index | band numbers taken as 0-based
  VRE is 4, 5, 6, 8 and NIR is 7 | index | bands 7 and 8 swapped
  a SAR group has real part, imaginary part and intensity of one polarisation | index | real part for the
      intensity; intensities of VH and VV swapped; real and imaginary parts grouped
  each group has its name | index | SAR groups first
  each sensor its own groups | index | sensors swapped
  bands stay in the printed order | index | red first in RGB
  pixels stay where they are | all-different | rows and columns swapped
prompt
  the description, not the name, of the class | 1-RGB | class name for description; another class's description
  the text of the group | 1-RGB | group name for its text
  the template word for word | 1-RGB | the word bands left out; a capital at the beginning; a full stop at the
      end; an image for a photo
  its grammar as printed | G-RGB | article left out
pre_tokens, tokenize
  HTML's character references are resolved | entities-numeric | entities not resolved; of the entities amp, lt and
      gt alone
  character references are resolved twice | entities-thrice | entities resolved once; entities resolved until none
      is left
  names of HTML that need no semicolon are resolved without one | entities-open | entities only with a semicolon
  character references are resolved before the text is made lower case | entities-named | lower case before the
      entities
  the text is made lower case | capitals | no lower-casing
  lower case is that of every script | cyrillic | lower case for A to Z alone
  lower case is not case folding | german | case folded, not lower case
  lower case is Unicode's in full: the last sigma, two characters for one | turkish | lower case letter by letter
  accents are not composed | combining | composed to NFC
  compatibility forms are not folded | wide | compatibility forms folded (NFKC)
  accents are not stripped | accents | accents stripped
  quotes are not repaired | curly-quotes | quotes straightened, as by ftfy
  whitespace is Unicode's White_Space | wide-spaces | whitespace is ASCII's alone
  U+0085 is whitespace, U+FEFF is not | next-line | U+0085 no whitespace, U+FEFF whitespace, as in JavaScript
  U+200B is no whitespace | no-spaces | U+200B counts as whitespace
  letters are category L | accents | letters are a to z alone
  letters without a case are letters | hindi | letters are those with a case
  marks are no letters | hindi | marks count as letters
  the underscore is no letter | underscore | the underscore counts as a letter
  numbers are category N | other-numbers | numbers are 0 to 9 alone; numbers are decimal digits alone
  each number is a piece | numbers | numbers as runs
  numbers are apart from letters | digits-and-letters | numbers joined to letters
  all other characters come in runs | punctuation | others one by one
  seven contractions are pieces | all-contractions | contractions not split off; contractions not split off, the
      apostrophe a letter; 's and 't alone are contractions
  no other contraction is a piece | other-apostrophes | 'n and 'em are contractions too
  a contraction is one where a piece begins | apostrophe-runs | contractions inside a run of others; contractions
      only at a word's end
tokenize
  a piece ends with </w> | words | no </w> at the end of a piece; </w> at the end of the text alone
  symbols are bytes of UTF-8 | accents | characters of Latin-1 for bytes of UTF-8; bytes of UTF-16
  bytes are numbered in CLIP's order | words | bytes in the order 0 to 255
  pairs are merged | words | no merges
  the pair of lowest rank is merged first | merges | merges from the left, not by rank; the longest symbol merged
      first; the longest symbol from the left, as in WordPiece
  equal pairs are merged from the left | repeats | equal pairs merged from the right
  SOT begins, EOT ends | words | SOT missing; EOT missing; SOT and EOT exchanged
  zeros fill the row at its end | words | padded with EOT; padded on the left
  what is too long is refused | too-long | cut where it should be refused
  a row that is cut on request ends with EOT | cut | cut without EOT at the end; cut at the front
  a full row fits | exact-fit | a full row refused
  end is the place of EOT | id-zero | the last position pooled; the place after EOT
  id 0 is also the byte ! | id-zero | the place before the first 0; as many places as ids other than 0
  special tokens are refused | special | special tokens taken from the text
linear
  weight is (out, in) | square | weight (in, out)
  bias is added | ordinary | bias left out; bias taken off
conv2d
  correlation: the kernel is not flipped | one-hot | kernel flipped; kernel's rows and columns swapped
  the padding is on both sides | stride-2 | stride-2 padding on one side
  the padding is zeros | ordinary | edges repeated for zeros; edges mirrored for zeros; edges wrapped around for
      zeros; no padding
  the padding has the width that is asked for | padding-2 | padding 1 whatever is asked
  the stride counts in both directions | stride-2 | stride 1 whatever is asked; stride for the rows alone; the
      stride also between the taps
  weight is (O, C, kh, kw) | stride-2 | input and output channels of the kernel swapped
batch_norm
  normalised by the biased variance | training | variances swapped; unbiased variance to normalise
  the running variance takes the unbiased one | training | biased variance remembered; standard deviation
      remembered for the variance
  the running values move by a share of 0.1 | training | running statistics with 0.9 for 0.1; running statistics
      with 0.01 for 0.1, as in Keras; running statistics not moved
  eps is 1e-5 | flat | eps 1e-3 in the variance; eps 1e-6 in the variance; eps 1e-12 in the variance
  eps is inside the root | flat | eps outside the root
  training uses the batch's statistics | training | running statistics used in training
  evaluation uses the running statistics | evaluation | the batch's statistics in evaluation
  evaluation keeps the running statistics | evaluation | running statistics moved in evaluation
  statistics are over samples, rows and columns | training | statistics of each sample; statistics of each pixel
      over the batch
  the statistics have a gradient | training | statistics without gradient; the variance without gradient
  the weight multiplies before the bias is added | training | weight and bias left out; bias left out; 1 added to
      the weight; the bias before the weight
  the variance in one pass is accepted | far | variance in one pass, E[x^2] - E[x]^2
layer_norm
  normalised by the biased variance | ordinary | unbiased variance
  eps is 1e-5 | flat | eps 1e-3 in the variance; eps 1e-6 in the variance; eps 1e-12 in the variance
  eps is inside the root | flat | eps outside the root
  statistics are over the last axis | tokens | over the rows; over all but the batch
  the mean is subtracted | ordinary | not centred, as RMS norm
  the statistics have a gradient | ordinary | the variance without gradient
  the weight multiplies before the bias is added | ordinary | weight left out; bias left out; 1 added to the
      weight
  the variance in one pass is accepted | far | variance in one pass, E[x^2] - E[x]^2
relu
  the value is 0 below 0 | ordinary | slope 0.01 below 0; slope 0.1 below 0; the absolute value; ELU; softplus;
      GELU
  large values are not capped | wide | capped at 6
  the slope at 0 is 0 | wide | slope 1 at 0; slope 1/2 at 0
max_pool2d
  the value is the largest of its window | ordinary | average; the smallest
  windows do not overlap | ordinary | stride 1
  an odd last row or column is dropped | odd | the odd last row and column kept; zeros in the odd last row and
      column
  there is no padding | negative | zeros around the picture
  one of equal values has the gradient | ties | every equal value has the whole gradient
  the gradient at another of equal values, or in shares, is accepted | ties | the last of equal values has the
      gradient; equal values share the gradient
gelu
  the form is exact, by erf | ordinary | tanh approximation; QuickGELU; SiLU; ReLU
  erf is of x / sqrt 2 | ordinary | 1 / sqrt 2 left out
  Phi(x) is multiplied by x | ordinary | Phi without x
quick_gelu
  the form is by sigma, not erf | ordinary | GELU; GELU by tanh; ReLU
  sigma is of 1.702 x | ordinary | SiLU, without 1.702; 1.7 for 1.702
attention
  token l sees 0..l | two-heads | mask off by one: the next token is seen; mask off by one: a token does not see
      itself; no mask
  what is masked has weight 0, whatever its score | masked-larger | masked scores are 0; 100 taken off masked
      scores; 10000 taken off masked scores
  the weights of a token sum to 1 | two-heads | masked after the softmax, rows do not sum to 1; softmax over the
      queries
  scores are divided by sqrt(W / heads) | two-heads | 1 / sqrt(d) left out; divided by the root of the whole
      width; divided by d, not its root
  the scale reaches the queries' bias too | two-heads | 1 / sqrt(d) on the queries' weight, not on their bias
  a head is a run of W / heads features | three-heads | heads split the other way; heads split by a reshape alone;
      heads joined by a reshape alone; one head whatever is asked
  in_proj holds q, k, v | two-heads | keys before queries in in_proj; values before keys in in_proj; in_proj read
      head by head
  in_proj and the last layer have biases | two-heads | in_proj's bias left out; the last bias left out
  a linear layer ends it | two-heads | the last linear layer left out
image_encoder
  convolution, batch norm, ReLU | ebcnn | ReLU before batch norm; no batch norm
  there are six blocks | ebcnn | no ReLU after the last batch norm; a ReLU only after each second convolution
  max-pools after the second and the fourth | ebcnn | no second max-pool; max-pool one convolution early
  the mean is over rows and columns | ebcnn | sum for the mean over rows and columns; largest for the mean over
      rows and columns
  batch norm is in training mode | ebcnn | batch norm in evaluation mode
text_encoder
  each branch begins with its norm | clip | norm after the residual sum; residual taken after the norm; one norm
      for both branches
  each branch is added | clip | no sum around the attention; no sum around the MLP; attention left out; attention
      and MLP side by side
  the feature is the row of EOT | clip | the last position pooled; the first position pooled; the token before EOT
      pooled; the mean over tokens
  of several EOT the first counts | zeros | the last EOT pooled
  id 0 is a token | zeros | the token before the first id 0 pooled; as many tokens as ids other than 0; id 0
      masked as padding; id 0 without gradient, as a padding index
  positions count from the first row | clip | positions left out; positions counted from 1; positions from the end
  a norm is at the end | clip | final norm left out
  every block is passed once, in order | clip | blocks in reverse order; the last block left out; one block's
      weights for all
similarity
  both sides are normalised | ordinary | no normalisation; only the images normalised; only the texts normalised
  the norm is Euclidean | ordinary | divided by the squared norm; divided by the sum of absolute values
  the norm is of each sample | ordinary | normalised over the batch
  features enter as they are | ordinary | features centred first
  the norm is bounded from below | zero-feature | no bound below the norm
  the bound is 1e-12 | between | bound 1e-8, as of torch.nn.CosineSimilarity; bound 1e-6
  the bound is not added to the norm | tiny | epsilon inside the root; epsilon added to the norm
  S_i has a row for each image | ordinary | transposed
  S_hat_i is its transpose | ordinary | S_hat not transposed; S_hat of its own
  similarities are from -1 to 1 | ordinary | negative similarities set to 0; divided by a temperature of 0.07; (1
      + cos) / 2
fuse
  the sum is multiplied by alpha | ordinary | alpha left out; alpha applied twice; divided by alpha
  alpha is an input | other-alpha | alpha 0.25 built in
  groups are added | ordinary | mean over the groups; mean over the groups without alpha
  all groups are added | ordinary | last group left out; the first group alone
  the number of groups is an input | other-alpha | 7 groups built in
supervised_matrix
  W is 1 where labels agree | duplicates | W is the identity; 0 where labels agree; the first sample of a class
      alone has pairs
  W is 0 where labels differ | duplicates | all ones; -1 where labels differ
  the diagonal is 1 | duplicates | W without its diagonal
  both sides of the diagonal are filled | duplicates | only the part below the diagonal
  labels are compared with labels | duplicates | labels compared with column numbers
  labels must be equal, not near | neighbours | labels that differ by one count as equal; built and natural types
      alone told apart
  rows are not weighted | duplicates | rows divided by their sums
bce
  the loss is a mean | ordinary | sum for mean
  the mean is over all entries | not-square | sum over a row, mean over rows; mean over the positives only; mean
      over the negatives only; the pair's own entry alone
  positives and negatives have equal weights | ordinary | positives and negatives weighted alike; positives
      weighted by negatives / positives; focal, (1 - p)^2
  probabilities are sigma(S) | ordinary | sigmoid twice; softmax for sigmoid; softmax cross-entropy over each row
  labels are not smoothed | ordinary | labels smoothed by 0.1; labels -1 and 1 for 0 and 1; W and 1 - W exchanged
  the logarithm is natural | ordinary | logarithm to base 2
  no epsilon is in the logarithms | saturated | log(p + 1e-8)
  logarithms have no bound | beyond | each logarithm at least -100; probabilities kept 1e-7 from 0 and 1, as in
      Keras; exponents at most 80
  the loss is computed from logits | saturated | of probabilities in float32, as by torch.nn.BCELoss
contrastive_loss
  each direction counts half | ordinary | one direction dropped, the half kept; the half left out
  each direction is a mean | ordinary | sum for mean; sum over a row, mean over rows
  each direction is a BCE | ordinary | softmax cross-entropy in both directions, as CLIP
  W is the target | ordinary | W is the identity
  both directions have a gradient | ordinary | the other direction's gradient stopped
concat
  features are put group after group | ordinary | feature-major; batch and groups mixed by a reshape
  groups are in the order of the prompts | ordinary | SAR groups first; groups from the last to the first; groups
      in the order of the alphabet
  features enter as they left the encoder | ordinary | features normalised
  each group gets its own gradient | ordinary | gradients to the groups stopped but for the first
cross_entropy
  the loss is a mean | ordinary | sum for mean; mean over classes too
  all samples count alike | ordinary | class 0 ignored; classes weighted by their rarity; focal, (1 - p)^2
  the inputs are logits | ordinary | a softmax before the cross-entropy; logits normalised
  the softmax is over the classes | ordinary | softmax over the batch; binary cross-entropy of one-hot labels;
      squared error of the softmax
  classes are counted from 0 | ordinary | classes counted from 1
  labels are not smoothed | ordinary | labels smoothed by 0.1
  the logarithm is natural | ordinary | logarithm to base 2
  no epsilon is in the logarithm | large | log(p + 1e-8)
  the shift by the largest logit cancels | ordinary | the largest logit has no gradient
total_loss
  beta multiplies L_con | ordinary | beta on the other term; beta left out; beta halved; beta squared
  the two losses are added | ordinary | a weighted mean; (1 - beta) L_cls + beta L_con
  beta is an input | other-beta | beta 2 built in
  both losses have a gradient | ordinary | L_con without gradient
sgd
  v = momentum v + g | momentum | no momentum; (1 - momentum) on later gradients; (1 - momentum) on every gradient
  the first v is g | momentum | first velocity scaled by 1 - momentum
  momentum is an input | no-gradient | momentum 0.9 built in
  w -= lr v | momentum | Nesterov; the gradient added, not taken off
  the rate is outside of v | rate-changes | rate inside the velocity
  decay w is added to the gradient | decay | decoupled decay; decay without the rate; no decay; decay taken off;
      decay of the sign
  the decay is whole | decay | decay halved, as of a penalty without the 2; decay doubled, as of a penalty without
      the half
  a weight decays also where its gradient is 0 | no-gradient | no decay where the gradient is 0
  gradients are not clipped | large | each gradient cut at 1
metrics
  rows are the truth | unbalanced | rows are predictions
  overall accuracy is trace / N | unbalanced | average accuracy for overall; percent for fractions
  average accuracy is the mean recall | unbalanced | overall accuracy for average; precision for recall
  average accuracy is over the classes in the truth | unbalanced | absent classes counted as 0
  kappa's chance is the product of the marginals | unbalanced | kappa from the truth's marginals alone; kappa
      against 1 / K; kappa with linear weights; overall accuracy for kappa
  kappa may be below 0 | worse-than-chance | kappa not below 0
training
  every parameter decays | three-steps | no decay for biases and norms; no decay for norms; no decay for biases;
      no decay for embeddings and positions; no decay for the text tower
  every row of a parameter decays | other-settings | no decay for rows without gradient
  every parameter is trained | three-steps | the text tower frozen; the text embedding frozen
  the velocity lasts | three-steps | velocity forgotten between steps
  gradients are of this step alone | three-steps | gradients added up over the steps
  gradients are neither clipped nor scaled | three-steps | gradients clipped to norm 1; gradients divided by B
      once more
  each step has its rate | three-steps | the first rate kept; the rate of the step before
  the settings are inputs | other-settings | alpha 0.25 built in; beta 2 built in; momentum 0.9 built in
  L_con has a gradient on both sides | three-steps | no gradient from L_con to the images; no gradient from L_con
      to the texts
  batch norm is in training mode | three-steps | batch norm in evaluation mode
  each sample has its class's prompts | three-steps | prompts of the next class
  prompts are in the order of the groups | three-steps | prompts in the order of II-A, SAR first
statistics
  std is a root | ordinary | the variance for its root
  the variance is divided by N | ordinary | divided by one less
  statistics are over samples and pixels together | ordinary | mean of the samples' deviations
  each channel by itself | ordinary | one mean for all channels
standardise
  the mean is subtracted | ordinary | not centred
  the rest is divided by std | ordinary | divided by the variance; not divided
  no eps is added to std | constant | an eps added to std
  where std is 0, the divisor is 1 | constant | 0 for a channel with std 0
split
  as many rows of each class in training | all | training rows in proportion to the classes
  each row is drawn once | all | training rows drawn with replacement
  no training row is in the test | all | test rows drawn from all rows
  the test is not balanced | all | a balanced test
  what cannot be drawn is refused | too-few | what cannot be drawn is drawn in part
predict
  the class has the largest logit | ordinary | the smallest logit; the largest size
  the largest is sought in a row | ordinary | over the rows
  of equal logits the first counts | ties | of equals the last
  classes are counted from 0 | ordinary | classes counted from 1
inference
  new images are classified in evaluation mode | two-batches | batch norm in training mode
  running variances begin at 1 | two-batches | running variance begins at 0
  every training batch moves the running values | two-batches | only the last batch remembered
  nothing else moves the running values | two-batches | the images counted among the batches
"""


def parsed(table: str) -> dict:
    """{operation: {clause: (case, wrong readings)}} of such a table."""
    clauses: dict = {}
    ops: list = []
    for line in re.sub(r"\n {3,}", " ", table.strip()).split("\n"):
        if line.startswith(" "):
            clause, case, readings = line.strip().split(" | ")
            for op in ops:
                clauses[op][clause] = case, tuple(readings.split("; "))
        else:
            ops = line.split(", ")
            clauses |= {op: clauses.get(op, {}) for op in ops}
    return clauses


CLAUSES = parsed(TABLE)


def uncovered(vectors: Kit) -> list:
    """Lines on what the table lacks: a clause that its case does not show, a reading at none or at two."""
    lines, listed = [], []
    for op, clauses in CLAUSES.items():
        for clause, (case, names) in clauses.items():
            listed += [(op, name) for name in names]
            near = {n["name"]: n for n in vectors.cases[f"{op}/{case}"]["near_misses"]}
            for name in names:
                if name not in near or not (near[name]["shows"] or near[name].get("accepted")):
                    lines.append(f"{op}: {clause}: {case} does not show {name!r}")
    known = [(w.op, w.name) for w in WRONG]
    lines += [f"{op}: {name!r} stands at no clause" for op, name in known if (op, name) not in listed]
    lines += [f"{op}: {name!r} stands at two clauses" for op, name in set(listed) if listed.count((op, name)) > 1]
    return lines + [f"{op}: {name!r} is no wrong reading" for op, name in listed if (op, name) not in known]


def table() -> str:
    """The clauses as Markdown, for the documentation."""
    lines = ["| operation | clause | case | wrong readings |", "|---|---|---|---|"]
    for op, clauses in CLAUSES.items():
        for clause, (case, names) in clauses.items():
            if op == "tokenize" and clause in CLAUSES["pre_tokens"]:
                continue
            words = "; ".join(names).replace("|", "\\|").replace("<", "&lt;")
            lines.append(f"| `{op}` | {clause.replace('<', '&lt;')} | {case} | {words} |")
    return "\n".join(lines)
