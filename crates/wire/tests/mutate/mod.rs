//! Inputs that are nearly right, from a seed.

use snakehouse_base::Chance;

/// How many inputs a target gets.
pub(crate) fn count() -> u64 {
    number("SNAKEHOUSE_FUZZ", 20_000)
}

/// Where the chance begins.
pub(crate) fn seed() -> u64 {
    number("SNAKEHOUSE_TEST_SEED", 1)
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("it must be a number"))
}

/// The inputs that everything begins with: the golden vectors of a section, and what was kept.
pub(crate) fn corpus(section: &str) -> Vec<Vec<u8>> {
    let vectors = include_str!("../golden/vectors.json");
    let vectors: serde_json::Value = serde_json::from_str(vectors).expect("the vectors are JSON");
    let sections: &[&str] = match section {
        "values" => &["values", "rejected"],
        _ => &["frames", "bad_frames"],
    };
    let golden = sections.iter().flat_map(|name| vectors[name].as_array().expect("a list"));
    let golden = golden.map(|vector| vector["bytes"].as_str().expect("hex").to_owned());
    let kept = include_str!("../golden/corpus.txt").lines();
    let kept = kept.filter_map(|line| line.strip_prefix(section)).map(|hex| hex.trim().to_owned());
    golden.chain(kept).map(|hex| unhex(&hex)).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let pairs = (0..text.len()).step_by(2);
    pairs.map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
}

/// An input as the corpus has it.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes inputs of those of a corpus.
pub(crate) struct Mutator {
    corpus: Vec<Vec<u8>>,
    chance: Chance,
}

impl Mutator {
    /// From a corpus and a seed.
    pub(crate) fn new(corpus: Vec<Vec<u8>>, seed: u64) -> Self {
        assert!(!corpus.is_empty());
        Self { corpus, chance: Chance::seeded(seed) }
    }

    fn below(&self, n: usize) -> usize {
        usize::try_from(self.chance.next_u64() % n.max(1) as u64).unwrap_or(0)
    }

    fn seed(&self) -> &[u8] {
        &self.corpus[self.below(self.corpus.len())]
    }

    fn marker(&self) -> u8 {
        // Every beginning of a value or a frame's kind, and the borders of the short forms.
        const SHORT: [u8; 14] =
            [0, 1, 0x7f, 0x80, 0x81, 0x8f, 0x90, 0x91, 0x9f, 0xa0, 0xa1, 0xbf, 0xe0, 0xff];
        match self.below(3) {
            0 => SHORT[self.below(SHORT.len())],
            1 => u8::try_from(0xc0 + self.below(0x20)).unwrap_or(0xc1),
            _ => u8::try_from(self.below(20)).unwrap_or(0),
        }
    }

    /// The next input.
    pub(crate) fn next(&self) -> Vec<u8> {
        let mut input = self.seed().to_vec();
        input.truncate(4096);
        for _ in 0..=self.below(4) {
            self.change(&mut input);
        }
        input.truncate(16 * 1024);
        input
    }

    fn change(&self, input: &mut Vec<u8>) {
        let at = self.below(input.len() + 1);
        let until = at + self.below(input.len() - at + 1).min(24);
        match self.below(10) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = self.marker(),
            2 => input.insert(at, self.marker()),
            3 => drop(input.drain(at..until)),
            4 => {
                let copy = input[at..until].to_vec();
                input.splice(at..at, copy);
            }
            5 => {
                let other = self.seed();
                let end = other.len().min(512);
                input.splice(at..until, other[..end].iter().copied());
            }
            6 => input.truncate(at),
            7 => *input = self.wrapped(input),
            8 if until - at >= 2 => input[at..until].reverse(),
            // Beside another value, in an array of both.
            _ => {
                let other = self.seed();
                let mut both = vec![0x92];
                both.extend_from_slice(input);
                both.extend_from_slice(&other[..other.len().min(512)]);
                *input = both;
            }
        }
    }

    /// The input in a container of the right length.
    fn wrapped(&self, input: &[u8]) -> Vec<u8> {
        let mut out = match self.below(6) {
            0 => vec![0x91],
            1 => return [&[0x81][..], input, &[0xc0]].concat(),
            2 => vec![0x81, 0xa1, b'k'],
            kind => {
                // A tuple, a set or a frozenset of it.
                let len = u16::try_from(input.len() + 1).unwrap_or(u16::MAX).to_be_bytes();
                let code = u8::try_from(kind - 1).unwrap_or(2);
                vec![0xc8, len[0], len[1], code, 0x91]
            }
        };
        out.extend_from_slice(input);
        out
    }
}
