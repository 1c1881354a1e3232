//! Lines that are the same as at the last look. Their readings are recorded; a hash of each is all that they cost.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, DefaultHasher, Hasher};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// Beyond so many, lines are read anew at the next look: the checkpoint must have an end.
const MOST: usize = 1_000_000;
const BYTES: usize = size_of::<u128>();

/// Hashes of lines, for whoever reads them by the same rules.
#[derive(Debug, Default)]
pub(super) struct Known(HashSet<u128, BuildHasherDefault<AsItIs>>);

/// A hash needs no further hashing.
#[derive(Debug, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u128(&mut self, hash: u128) {
        self.0 = hash as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Known {
    pub(super) fn has(&self, hash: u128) -> bool {
        self.0.contains(&hash)
    }

    pub(super) fn read(text: &str) -> Known {
        let bytes = STANDARD_NO_PAD.decode(text).unwrap_or_default();
        let hashes = bytes.chunks_exact(BYTES).filter_map(|bytes| bytes.try_into().ok());
        Known(hashes.map(u128::from_le_bytes).collect())
    }
}

/// The hashes as text, for `Known::read`.
pub(super) fn write(hashes: &[u128]) -> String {
    let bytes: Vec<u8> = hashes.iter().take(MOST).flat_map(|hash| hash.to_le_bytes()).collect();
    STANDARD_NO_PAD.encode(bytes)
}

/// The hash of a line; `seed` is all that decides beside the line what becomes of it.
pub(super) fn hash(seed: u64, line: &[u8]) -> u128 {
    let half = |which: u8| {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(seed);
        hasher.write_u8(which);
        hasher.write(line);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_known_again() {
        let hashes: Vec<u128> = (0..1_000_u32).map(|n| hash(7, &n.to_le_bytes())).collect();
        let known = Known::read(&write(&hashes));
        assert!(hashes.iter().all(|hash| known.has(*hash)));
        for other in [hash(8, &5_u32.to_le_bytes()), hash(7, &1_000_u32.to_le_bytes()), 0] {
            assert!(!known.has(other));
        }
        assert_eq!(known.0.len(), 1_000);
        for nonsense in ["", "?", "AAAA"] {
            assert!(!Known::read(nonsense).has(0));
        }
    }
}
