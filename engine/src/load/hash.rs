//! A fast 128-bit hash for identity, not for security: it tells two checkpoints or tokenizers apart.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

const CHUNK: usize = 16 << 20;
/// Odd constants: the golden ratio and digits of pi.
const KEYS: [u64; 4] = [0x9e37_79b9_7f4a_7c15, 0xa409_3822_299f_31d1, 0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7345];

const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

/// Hashes `bytes` on one thread: multiply-and-fold over 16-byte words, in two lanes.
pub(crate) fn hash(bytes: &[u8]) -> u128 {
    let mut state = [KEYS[0] ^ bytes.len() as u64, KEYS[1]];
    let mut absorb = |word: &[u8; 16]| {
        let word = u128::from_le_bytes(*word);
        let (low, high) = (word as u64, (word >> 64) as u64);
        // The rotated state survives a product of zero.
        state[0] = fold(low ^ state[0], high ^ KEYS[2]) ^ state[0].rotate_left(23);
        state[1] = fold(high ^ state[1], low ^ KEYS[3]) ^ state[1].rotate_left(29);
    };
    let (words, tail) = bytes.as_chunks::<16>();
    words.iter().for_each(&mut absorb);
    let mut last = [0; 16]; // the length in the first state tells it from real zeros
    last[..tail.len()].copy_from_slice(tail);
    absorb(&last);
    let [a, b] = state;
    let (a, b) = (fold(a ^ KEYS[1], b ^ KEYS[2]), fold(b ^ KEYS[0], a.rotate_left(32) ^ KEYS[3]));
    u128::from(a) << 64 | u128::from(b)
}

/// Hashes `parts` in order, in parallel; the result does not depend on the number of threads.
pub(crate) fn hash_parts(parts: &[&[u8]]) -> u128 {
    let chunks: Vec<&[u8]> = parts.iter().flat_map(|part| part.chunks(CHUNK)).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut digests = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(chunk) = chunks.get(index) else { return digests };
            digests.push((index, hash(chunk)));
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(chunks.len().max(1));
    let mut digests: Vec<(usize, u128)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|w| w.join().expect("hashing does not panic")).collect()
    });
    digests.sort_unstable_by_key(|(index, _)| *index);
    let lengths = parts.iter().map(|part| part.len() as u128);
    let summary: Vec<u8> =
        lengths.chain(digests.into_iter().map(|(_, digest)| digest)).flat_map(u128::to_le_bytes).collect();
    hash(&summary)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_flipped_bit_and_every_length_changes_the_hash() {
        let bytes: Vec<u8> = (0..100_u8).collect();
        let mut seen = HashSet::from([hash(&bytes)]);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(seen.insert(hash(&flipped)), "bit {bit}");
        }
        let zeros = [0; 100];
        for len in 0..zeros.len() {
            assert!(seen.insert(hash(&zeros[..len])), "{len} zeros");
        }
    }

    #[test]
    fn moving_a_boundary_between_parts_changes_the_hash() {
        assert_ne!(hash_parts(&[b"ab", b"c"]), hash_parts(&[b"a", b"bc"]));
        assert_ne!(hash_parts(&[b"ab", b""]), hash_parts(&[b"ab"]));
        assert_eq!(hash_parts(&[b"ab", b"c"]), hash_parts(&[b"ab", b"c"]));
    }
}
