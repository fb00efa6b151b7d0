//! What is done to files: bits, lengths, pieces, words of the format; all of it follows from a number.

use super::seeds::Seed;

/// A small generator (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    /// A place and a length within `len`, mostly short.
    fn range(&mut self, len: usize) -> std::ops::Range<usize> {
        let start = self.below(len);
        let most = if self.below(4) == 0 { len } else { 16 };
        start..(start + 1 + self.below(most)).min(len)
    }
}

/// Numbers at which lengths, signs and sums go wrong.
const NUMBERS: [u64; 18] = [
    0,
    1,
    2,
    7,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 32,
    1 << 40,
    u64::MAX >> 1,
    1 << 63,
    u64::MAX - 7,
    u64::MAX,
];

/// The same in text.
const DECIMALS: [&str; 14] = [
    "0",
    "1",
    "-1",
    "3",
    "255",
    "65536",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "1e308",
    "1e-320",
    "0.5",
    "null",
];

/// Words that mean something to the loader.
fn words(loader: &str) -> &'static [&'static [u8]] {
    match loader {
        "safetensors" => &[b"\"F16\"", b"\"BF16\"", b"\"I8\"", b"[]", b"[0,0]", b"{}", b"\"__metadata__\"", b"\\u0000"],
        "pickle" => &[
            b"(",
            b")",
            b"}",
            b"]",
            b"t",
            b"u",
            b"e",
            b"R",
            b"Q",
            b"s",
            b"a",
            b"N",
            b"0",
            b".",
            b"\x85",
            b"\x86",
            b"\x87",
            b"\x88",
            b"\x93",
            b"\x94",
            b"h\x00",
            b"j\x00\x00\x00\x00",
            b"q\x01",
            b"b",
            b"K\x01",
            b"\x8a\x08",
            b"X\x01\x00\x00\x00a",
            b"ctorch\nHalfStorage\n",
            b"ctorch._utils\n_rebuild_parameter\n",
            b"cos\nsystem\n",
            b"\x95",
            b"PK\x01\x02",
            b"PK\x06\x06",
        ],
        "gguf" => &[
            b"\x08\x00\x00\x00",
            b"\x09\x00\x00\x00",
            b"\x0c\x00\x00\x00",
            b"\x02\x00\x00\x00",
            b"llama-bpe",
            b"gpt2",
            b"llama",
            b"\xff\xfe",
            b"tokenizer.ggml.scores",
        ],
        "sentencepiece" => &[
            b"\x0a\x00",
            b"\x12\x00",
            b"\x1a\x00",
            b"\x0a\x03\xe2\x96\x81",
            b"\x18\x06",
            b"\x18\x04",
            b"\x08\x01",
            b"\xff\xff\xff\xff\x0f",
        ],
        _ => &[
            b"null",
            b"true",
            b"[]",
            b"{}",
            b"\"\"",
            b"[[[[",
            b"\"a\"",
            b"\"type\":\"",
            b"\"ByteFallback\"",
            b"\"Sequence\"",
            b"\"Split\"",
            b"\"dynamic\"",
            b"\"linear\"",
            b"\"Qwen2ForCausalLM\"",
            b"\\ud800",
            b"\"Unigram\"",
            b"\"Metaspace\"",
            b"\"Replace\"",
        ],
    }
}

/// Mutation `number` of one of the seeds.
pub fn mutation(loader: &str, seeds: &[Seed], number: u64) -> Vec<u8> {
    let salt = loader.bytes().fold(0_u64, |hash, byte| hash.wrapping_mul(257).wrapping_add(u64::from(byte)));
    let mut random = Random(number.wrapping_mul(0xd134_2543_de82_ef95) ^ salt);
    let mut bytes = random.of(seeds).bytes.clone();
    let rounds = [1, 1, 1, 1, 2, 2, 3, 5];
    for _ in 0..*random.of(&rounds) {
        step(&mut bytes, &mut random, loader, seeds);
    }
    bytes
}

fn step(bytes: &mut Vec<u8>, random: &mut Random, loader: &str, seeds: &[Seed]) {
    if bytes.is_empty() {
        bytes.push(random.next() as u8);
    }
    let len = bytes.len();
    let at = random.below(len);
    match random.below(14) {
        0 | 1 => bytes[at] ^= 1 << random.below(8),
        2 => bytes[at] = *random.of(&[0, 1, 0x7f, 0x80, 0xff, b'"', b'{', b'}', b'[', b',', b' ', b'9']),
        3 => bytes[at] = bytes[at].wrapping_add(*random.of(&[1, 255, 16, 240])),
        4 | 5 => {
            // A length or a count, wherever it may stand.
            let number = match random.below(3) {
                0 => *random.of(&NUMBERS),
                1 => (len as u64).wrapping_add(random.below(9) as u64).wrapping_sub(4),
                _ => random.below(len * 2) as u64,
            };
            let width = *random.of(&[1_usize, 2, 4, 4, 8, 8]);
            let end = (at + width).min(len);
            bytes[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
        }
        6 => bytes.truncate(at),
        7 => {
            let more = random.below(40);
            bytes.extend((0..more).map(|_| random.next() as u8));
        }
        8 => drop(bytes.drain(random.range(len))),
        9 => {
            let piece = bytes[random.range(len)].to_vec();
            bytes.splice(at..at, piece);
        }
        10 => {
            let other = &random.of(seeds).bytes;
            let piece = other[random.range(other.len())].to_vec();
            let end = if random.below(2) == 0 { at } else { (at + piece.len()).min(len) };
            bytes.splice(at..end, piece);
        }
        11 => {
            let word = random.of(words(loader)).to_vec();
            let end = if random.below(2) == 0 { at } else { (at + word.len()).min(len) };
            bytes.splice(at..end, word);
        }
        _ => {
            // A number in a text.
            let Some(start) = (at..len).find(|i| bytes[*i].is_ascii_digit()) else { return };
            let end = (start..len).find(|i| !bytes[*i].is_ascii_digit()).unwrap_or(len);
            let number = random.of(&DECIMALS).as_bytes().to_vec();
            bytes.splice(start..end, number);
        }
    }
}
