//! A table indexed by ids that a counter gives out: pages of 1,024 slots, made when first used and freed when empty.
//!
//! Growth never copies the entries: only the vector of page pointers is reallocated, 8 bytes for 1,024 ids.

const PAGE_SLOTS: usize = 1024;

struct Page<T> {
    used: usize,
    slots: [Option<T>; PAGE_SLOTS],
}

/// Entries by number. `base` is the number of slot 0.
pub struct PagedTable<T> {
    base: u64,
    pages: Vec<Option<Box<Page<T>>>>,
    len: usize,
}

impl<T> PagedTable<T> {
    /// An empty table for numbers from `base`.
    pub fn new(base: u64) -> Self {
        Self { base, pages: Vec::new(), len: 0 }
    }

    /// Entries in the table.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn position(&self, number: u64) -> Option<(usize, usize)> {
        let index = usize::try_from(number.checked_sub(self.base)?).ok()?;
        Some((index / PAGE_SLOTS, index % PAGE_SLOTS))
    }

    /// The entry of `number`.
    pub fn get(&self, number: u64) -> Option<&T> {
        let (page, slot) = self.position(number)?;
        self.pages.get(page)?.as_ref()?.slots[slot].as_ref()
    }

    /// The entry of `number`, to be changed.
    pub fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        let (page, slot) = self.position(number)?;
        self.pages.get_mut(page)?.as_mut()?.slots[slot].as_mut()
    }

    /// Puts an entry; gives back the one that was there.
    ///
    /// # Panics
    /// When `number` is below the base: the counter that gave it is broken.
    pub fn insert(&mut self, number: u64, value: T) -> Option<T> {
        let (page, slot) = self.position(number).expect("numbers come from a counter that starts at the base");
        if page >= self.pages.len() {
            self.pages.resize_with(page + 1, || None);
        }
        let page = self.pages[page].get_or_insert_with(new_page);
        let old = page.slots[slot].replace(value);
        if old.is_none() {
            page.used += 1;
            self.len += 1;
        }
        old
    }

    /// Takes an entry out.
    pub fn remove(&mut self, number: u64) -> Option<T> {
        let (index, slot) = self.position(number)?;
        let page = self.pages.get_mut(index)?.as_mut()?;
        let old = page.slots[slot].take()?;
        page.used -= 1;
        self.len -= 1;
        if page.used == 0 {
            self.pages[index] = None;
        }
        Some(old)
    }

    /// All entries in order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.pages.iter().enumerate().filter_map(|(index, page)| Some((index, page.as_ref()?))).flat_map(
            move |(index, page)| {
                let first = self.base + (index * PAGE_SLOTS) as u64;
                page.slots
                    .iter()
                    .enumerate()
                    .filter_map(move |(slot, entry)| Some((first + slot as u64, entry.as_ref()?)))
            },
        )
    }
}

/// Built on the heap slot by slot: a page of large entries must not pass over the stack.
fn new_page<T>() -> Box<Page<T>> {
    Box::new(Page { used: 0, slots: std::array::from_fn(|_| None) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_behaves_like_a_sorted_map() {
        let mut table = PagedTable::new(10);
        for number in [10, 11, 5_000, 1_033, 1_034] {
            assert_eq!(table.insert(number, number * 2), None);
        }
        assert_eq!(table.insert(11, 1), Some(22));
        assert_eq!(table.iter().map(|(number, _)| number).collect::<Vec<_>>(), [10, 11, 1_033, 1_034, 5_000]);
        assert_eq!((table.get(9), table.get(12), table.get(1 << 60)), (None, None, None));
        assert_eq!(table.remove(5_000), Some(10_000));
        assert_eq!(table.remove(5_000), None);
        assert_eq!(table.len(), 4);
    }
}
