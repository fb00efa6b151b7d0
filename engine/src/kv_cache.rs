//! Who owns which page of the KV pool, and which pages hold which beginning of a text. Pure bookkeeping, no device.
//!
//! The prefix index is a radix tree over full pages: a page is found by its parent's identity and its own sixteen
//! tokens, compared exactly. A page is in the index from the moment a sequence is admitted that will compute it, so
//! later sequences with the same beginning share it even when all are admitted together; [`KvPool::is_filled`] says
//! when its keys and values may be read. Only prompt tokens are indexed: generated ones take the kernel of another
//! role. Pages that nobody holds stay in the index until they are needed, least recently used first.

use oc_kernels::PAGE_SIZE;
use std::collections::{BTreeMap, HashMap};

/// The tokens of a full page.
type PageTokens = [u32; PAGE_SIZE];

/// What finds a page: the identity of the page before it (0 for none), what its keys were rotated for, and its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    parent: u64,
    /// See [`Prompt::scaled_len`].
    scaled_len: u32,
    tokens: PageTokens,
}

/// What scoring knows of a token of a cached page.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TokenLoss {
    /// Log-probability given all tokens before; NaN for the first of a text.
    pub logprob: f32,
    /// Whether it is the greedy choice.
    pub is_greedy: bool,
}

#[derive(Debug, Default)]
struct Page {
    /// Sequences that hold it.
    refs: u32,
    /// Set while it is in the index.
    key: Option<Key>,
    /// Identity in the index, never used again for another page.
    id: u64,
    /// Whether its keys and values are computed, or will be in the step that is being put together.
    filled: bool,
    /// Whether a sequence that holds it will compute its losses.
    losses_pending: bool,
    losses: Option<Box<[TokenLoss; PAGE_SIZE]>>,
    /// Position in the order of release while nobody holds it.
    released: u64,
}

/// What a sequence begins with, and what its pages can be shared by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prompt<'a> {
    /// The tokens.
    pub tokens: &'a [u32],
    /// Tokens of the text that the rotary frequencies follow from, or 0 for those of the original context: keys of other
    /// frequencies are not the same keys.
    pub scaled_len: u32,
    /// Whether the losses of its tokens will be computed.
    pub losses: bool,
}

/// The pages of one sequence.
#[derive(Debug)]
pub(crate) struct BlockTable {
    /// Page ids: first the shared ones that were found, then its own.
    pub pages: Vec<u32>,
    /// How many were found in the index.
    pub hits: usize,
    /// How many of these have their losses, or another sequence is about to compute them.
    pub scored_hits: usize,
}

/// The pool's bookkeeping.
#[derive(Debug)]
pub(crate) struct KvPool {
    pages: Vec<Page>,
    /// Pages without content; the last used one comes first, so that untouched memory stays untouched.
    free: Vec<u32>,
    index: HashMap<Key, u32>,
    /// Indexed pages that nobody holds, by order of release.
    idle: BTreeMap<u64, u32>,
    clock: u64,
    last_id: u64,
    prefix_cache: bool,
}

impl KvPool {
    /// A pool of `num_pages` pages; without `prefix_cache` nothing is ever shared.
    pub fn new(num_pages: usize, prefix_cache: bool) -> Self {
        Self {
            pages: (0..num_pages).map(|_| Page::default()).collect(),
            free: (0..num_pages as u32).rev().collect(),
            index: HashMap::new(),
            idle: BTreeMap::new(),
            clock: 0,
            last_id: 0,
            prefix_cache,
        }
    }

    /// Pages in the pool.
    pub fn num_pages(&self) -> usize {
        self.pages.len()
    }

    /// Takes pages for a sequence that begins with `prompt` and may grow to `max_len` tokens, sharing what the index
    /// holds of the prompt; `None` if there are not enough.
    pub fn admit(&mut self, prompt: Prompt<'_>, max_len: usize) -> Option<BlockTable> {
        let mut pages = self.find(prompt);
        let hits = pages.len();
        let needed = max_len.div_ceil(PAGE_SIZE).saturating_sub(hits);
        let idle_hits = pages.iter().filter(|page| self.pages[**page as usize].refs == 0).count();
        if needed > self.free.len() + self.idle.len() - idle_hits {
            return None;
        }
        let is_scored = |page: &&u32| {
            let page = &self.pages[**page as usize];
            page.losses_pending || page.losses.is_some()
        };
        let scored_hits = pages.iter().take_while(is_scored).count();
        for page in &pages {
            let page = &mut self.pages[*page as usize];
            if page.refs == 0 {
                self.idle.remove(&page.released);
            }
            page.refs += 1;
            page.losses_pending |= prompt.losses;
        }
        pages.extend((0..needed).map(|_| self.take()));
        if self.prefix_cache {
            self.register(prompt, &pages, hits);
        }
        Some(BlockTable { pages, hits, scored_hits })
    }

    /// The indexed pages of the longest common beginning.
    fn find(&self, Prompt { tokens, scaled_len, .. }: Prompt<'_>) -> Vec<u32> {
        let mut found = Vec::new();
        let mut parent = 0;
        if self.prefix_cache {
            for tokens in tokens.as_chunks().0 {
                let Some(page) = self.index.get(&Key { parent, scaled_len, tokens: *tokens }) else { break };
                found.push(*page);
                parent = self.pages[*page as usize].id;
            }
        }
        found
    }

    /// A page without content, held once.
    fn take(&mut self) -> u32 {
        let page = self.free.pop().unwrap_or_else(|| {
            let (_, page) = self.idle.pop_first().expect("the caller counted the pages that can be had");
            let key = self.pages[page as usize].key.expect("idle pages are indexed");
            self.index.remove(&key);
            page
        });
        self.pages[page as usize] = Page { refs: 1, ..Page::default() };
        page
    }

    /// Puts the full pages of `prompt` from `hits` on into the index.
    fn register(&mut self, prompt: Prompt<'_>, pages: &[u32], hits: usize) {
        let Prompt { tokens, scaled_len, losses } = prompt;
        let mut parent = hits.checked_sub(1).map_or(0, |last| self.pages[pages[last] as usize].id);
        for (tokens, page) in tokens.as_chunks().0.iter().zip(pages).skip(hits) {
            let key = Key { parent, scaled_len, tokens: *tokens };
            self.index.insert(key, *page);
            self.last_id += 1;
            parent = self.last_id;
            let page = &mut self.pages[*page as usize];
            (page.key, page.id, page.losses_pending) = (Some(key), self.last_id, losses);
        }
    }

    /// Gives a sequence's pages back. A page that is not filled is forgotten, with all that the index holds behind it.
    pub fn release(&mut self, table: BlockTable) {
        // Backwards: a page is idle for longer than the pages before it, so the least recently used is a leaf.
        for id in table.pages.into_iter().rev() {
            let page = &mut self.pages[id as usize];
            page.refs -= 1;
            if page.refs > 0 {
                continue;
            }
            page.losses_pending = false;
            match page.key {
                Some(_) if page.filled => {
                    self.clock += 1;
                    page.released = self.clock;
                    self.idle.insert(self.clock, id);
                }
                key => {
                    if let Some(key) = key {
                        self.index.remove(&key);
                    }
                    *page = Page::default();
                    self.free.push(id);
                }
            }
        }
    }

    /// Forgets every content. No sequence may hold pages.
    pub fn clear(&mut self) {
        *self = Self::new(self.pages.len(), self.prefix_cache);
    }

    /// Whether the keys and values of `page` may be read.
    pub fn is_filled(&self, page: u32) -> bool {
        self.pages[page as usize].filled
    }

    /// Says that the step being put together fills `page`.
    pub fn set_filled(&mut self, page: u32) {
        self.pages[page as usize].filled = true;
    }

    /// The losses of the tokens of `page`, if they are known.
    pub fn losses(&self, page: u32) -> Option<&[TokenLoss; PAGE_SIZE]> {
        self.pages[page as usize].losses.as_deref()
    }

    /// Keeps the losses of an indexed page.
    pub fn set_losses(&mut self, page: u32, losses: [TokenLoss; PAGE_SIZE]) {
        let page = &mut self.pages[page as usize];
        if page.key.is_some() {
            page.losses = Some(Box::new(losses));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(len: usize, seed: u32) -> Vec<u32> {
        (0..len as u32).map(|i| i.wrapping_mul(7) + seed).collect()
    }

    fn plain(tokens: &[u32]) -> Prompt<'_> {
        Prompt { tokens, scaled_len: 0, losses: false }
    }

    fn fill(pool: &mut KvPool, table: &BlockTable) {
        table.pages.iter().for_each(|page| pool.set_filled(*page));
    }

    #[test]
    fn a_common_beginning_is_shared_while_it_is_computed_and_afterwards() {
        let mut pool = KvPool::new(10, true);
        let a = pool.admit(plain(&prompt(40, 0)), 50).unwrap();
        assert_eq!((a.hits, a.pages.len()), (0, 4));
        let b = pool.admit(plain(&prompt(45, 0)), 45).unwrap();
        assert_eq!((b.hits, &b.pages[..2]), (2, &a.pages[..2]));
        assert!(!pool.is_filled(b.pages[0]));
        fill(&mut pool, &a);
        fill(&mut pool, &b);
        pool.release(a);
        pool.release(b);
        let c = pool.admit(plain(&prompt(33, 0)), 33).unwrap();
        assert_eq!(c.hits, 2);
    }

    #[test]
    fn pages_of_other_frequencies_are_not_shared() {
        let mut pool = KvPool::new(20, true);
        let tokens = prompt(40, 0);
        for (scaled_len, hits) in [(0, 0), (40, 0), (41, 0), (40, 2), (0, 2), (41, 2)] {
            let table = pool.admit(Prompt { scaled_len, ..plain(&tokens) }, 40).unwrap();
            assert_eq!(table.hits, hits, "{scaled_len}");
            fill(&mut pool, &table);
            pool.release(table);
        }
    }

    #[test]
    fn what_was_never_filled_is_forgotten() {
        let mut pool = KvPool::new(4, true);
        let a = pool.admit(plain(&prompt(64, 0)), 64).unwrap();
        pool.release(a);
        assert_eq!(pool.admit(plain(&prompt(64, 0)), 64).unwrap().hits, 0);
    }

    #[test]
    fn the_least_recently_used_leaf_goes_first() {
        let mut pool = KvPool::new(4, true);
        for seed in [0, 1000] {
            let table = pool.admit(plain(&prompt(32, seed)), 32).unwrap();
            fill(&mut pool, &table);
            pool.release(table);
        }
        // One page more: the second page of the older text goes, its first stays.
        let c = pool.admit(plain(&prompt(16, 2000)), 16).unwrap();
        fill(&mut pool, &c);
        assert_eq!(pool.find(plain(&prompt(32, 0))).len(), 1);
        assert_eq!(pool.find(plain(&prompt(32, 1000))).len(), 2);
        // What is found is not evicted to make room for the rest.
        let d = pool.admit(plain(&prompt(48, 1000)), 48).unwrap();
        assert_eq!((d.hits, d.pages.len()), (2, 3));
        assert!(pool.admit(plain(&prompt(16, 3000)), 16).is_none());
        pool.release(c);
        assert_eq!(pool.admit(plain(&prompt(16, 3000)), 16).unwrap().hits, 0);
    }

    #[test]
    fn without_the_cache_nothing_is_shared() {
        let mut pool = KvPool::new(4, false);
        let a = pool.admit(plain(&prompt(32, 0)), 32).unwrap();
        fill(&mut pool, &a);
        assert_eq!(pool.admit(plain(&prompt(32, 0)), 32).unwrap().hits, 0);
    }

    #[test]
    fn random_traffic_keeps_the_books_balanced() {
        let mut rng = 1_u64;
        let mut next = |n: u64| {
            rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (rng >> 33) % n
        };
        let mut pool = KvPool::new(24, true);
        let mut held: Vec<(Vec<u32>, BlockTable)> = Vec::new();
        for _ in 0..5000 {
            if next(2) == 0 || held.is_empty() {
                let len = 1 + next(90) as usize;
                let tokens: Vec<u32> = (0..len).map(|i| if i < 40 { 0 } else { next(2) as u32 }).collect();
                if let Some(table) = pool.admit(
                    Prompt { losses: next(2) == 0, scaled_len: (len as u32 / 70) * len as u32, ..plain(&tokens) },
                    len + next(20) as usize,
                ) {
                    assert!(table.hits * PAGE_SIZE <= len && table.scored_hits <= table.hits);
                    held.push((tokens, table));
                }
            } else {
                let (_, table) = held.swap_remove(next(held.len() as u64) as usize);
                fill(&mut pool, &table);
                pool.release(table);
            }
            let mut refs = vec![0; 24];
            held.iter().flat_map(|h| &h.1.pages).for_each(|page| refs[*page as usize] += 1);
            assert!(pool.pages.iter().zip(&refs).all(|(page, refs)| page.refs == *refs));
            let in_use = refs.iter().filter(|r| **r > 0).count();
            assert_eq!(pool.free.len() + pool.idle.len() + in_use, 24);
            assert!(pool.index.iter().all(|(key, page)| pool.pages[*page as usize].key == Some(*key)));
        }
    }
}
