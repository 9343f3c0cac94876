//! Tables indexed by ids that a counter gives out, in pages of 1,024 slots: made when first used, freed when empty, and
//! between the two never much larger than what is in them.
//!
//! ```text
//!   dense    one array of slots                                   most pages: files are made one after the other
//!   sparse   16 groups: a bit for each of 64 slots, and the used   a page of which more than half has gone, or that is
//!            slots in a row                                       still being filled
//! ```
//!
//! A page becomes dense at three quarters and sparse again below one half, so that no change of form follows another at
//! once. Growth never copies more than a page; only the vector of pages itself is reallocated, 24 bytes for 1,024 ids.

/// Ids in a page: large enough that there are few pages, small enough that changing the form of one takes microseconds.
pub const PAGE_SLOTS: usize = 1024;
/// Slots of a group: the bits of a word.
const GROUP_SLOTS: usize = 64;
const GROUPS: usize = PAGE_SLOTS / GROUP_SLOTS;
/// Used slots from which on a page is dense.
const DENSE_FROM: usize = PAGE_SLOTS * 3 / 4;
/// Used slots below which it is sparse again.
const SPARSE_BELOW: usize = PAGE_SLOTS / 2;

/// What a page is made of; one value says that nothing is there.
pub trait Slot: Sized {
    /// That value.
    const FREE: Self;

    /// Whether it is this one.
    fn is_free(&self) -> bool;
}

impl<T> Slot for Option<T> {
    const FREE: Self = None;

    fn is_free(&self) -> bool {
        self.is_none()
    }
}

/// Slots of 1,024 ids.
pub struct Page<S> {
    used: usize,
    form: Form<S>,
}

enum Form<S> {
    Dense(Box<[S; PAGE_SLOTS]>),
    Sparse(Box<[Group<S>; GROUPS]>),
}

struct Group<S> {
    /// Which slots are used.
    used: u64,
    /// Those, in order.
    slots: Vec<S>,
}

impl<S> Group<S> {
    /// Where in the row a slot is, or would be; and whether it is there.
    fn find(&self, slot: usize) -> (usize, bool) {
        let bit = 1 << slot;
        ((self.used & (bit - 1)).count_ones() as usize, self.used & bit != 0)
    }
}

impl<S: Slot> Default for Page<S> {
    fn default() -> Self {
        Self { used: 0, form: Form::Sparse(Box::new(std::array::from_fn(|_| Group { used: 0, slots: Vec::new() }))) }
    }
}

impl<S: Slot> Page<S> {
    /// Slots in use.
    pub fn used(&self) -> usize {
        self.used
    }

    /// What is in a slot.
    pub fn get(&self, slot: usize) -> Option<&S> {
        match &self.form {
            Form::Dense(slots) => Some(&slots[slot]).filter(|entry| !entry.is_free()),
            Form::Sparse(groups) => {
                let group = &groups[slot / GROUP_SLOTS];
                let (at, is_there) = group.find(slot % GROUP_SLOTS);
                if is_there { group.slots.get(at) } else { None }
            }
        }
    }

    /// What is in a slot, to be changed.
    pub fn get_mut(&mut self, slot: usize) -> Option<&mut S> {
        match &mut self.form {
            Form::Dense(slots) => Some(&mut slots[slot]).filter(|entry| !entry.is_free()),
            Form::Sparse(groups) => {
                let group = &mut groups[slot / GROUP_SLOTS];
                let (at, is_there) = group.find(slot % GROUP_SLOTS);
                if is_there { group.slots.get_mut(at) } else { None }
            }
        }
    }

    /// Fills a slot; gives back what was in it.
    pub fn insert(&mut self, slot: usize, entry: S) -> Option<S> {
        debug_assert!(!entry.is_free());
        if let Some(there) = self.get_mut(slot) {
            return Some(std::mem::replace(there, entry));
        }
        self.used += 1;
        if self.used >= DENSE_FROM {
            self.make_dense();
        }
        match &mut self.form {
            Form::Dense(slots) => slots[slot] = entry,
            Form::Sparse(groups) => {
                let group = &mut groups[slot / GROUP_SLOTS];
                let (at, _) = group.find(slot % GROUP_SLOTS);
                group.slots.insert(at, entry);
                group.used |= 1 << (slot % GROUP_SLOTS);
            }
        }
        None
    }

    /// Empties a slot; gives back what was in it.
    pub fn remove(&mut self, slot: usize) -> Option<S> {
        let removed = match &mut self.form {
            Form::Dense(slots) => {
                let entry = std::mem::replace(&mut slots[slot], S::FREE);
                Some(entry).filter(|entry| !entry.is_free())?
            }
            Form::Sparse(groups) => {
                let group = &mut groups[slot / GROUP_SLOTS];
                let (at, is_there) = group.find(slot % GROUP_SLOTS);
                if !is_there {
                    return None;
                }
                group.used &= !(1 << (slot % GROUP_SLOTS));
                let entry = group.slots.remove(at);
                if group.slots.len() <= group.slots.capacity() / 2 {
                    group.slots.shrink_to_fit();
                }
                entry
            }
        };
        self.used -= 1;
        if self.used < SPARSE_BELOW {
            self.make_sparse();
        }
        Some(removed)
    }

    /// What is in use, by slot.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &S)> {
        (0..PAGE_SLOTS).filter_map(|slot| Some((slot, self.get(slot)?)))
    }

    fn make_dense(&mut self) {
        let Form::Sparse(groups) = &mut self.form else { return };
        let mut dense = new_slots();
        for (number, group) in groups.iter_mut().enumerate() {
            let mut left = group.used;
            for entry in group.slots.drain(..) {
                dense[number * GROUP_SLOTS + left.trailing_zeros() as usize] = entry;
                left &= left - 1;
            }
        }
        self.form = Form::Dense(dense);
    }

    fn make_sparse(&mut self) {
        let Form::Dense(slots) = &mut self.form else { return };
        let mut groups = Box::new(std::array::from_fn(|_| Group { used: 0, slots: Vec::new() }));
        for (group, slots) in groups.iter_mut().zip(slots.chunks_exact_mut(GROUP_SLOTS)) {
            group.slots.reserve_exact(slots.iter().filter(|entry| !entry.is_free()).count());
            for (slot, entry) in slots.iter_mut().enumerate().filter(|(_, entry)| !entry.is_free()) {
                group.used |= 1 << slot;
                group.slots.push(std::mem::replace(entry, S::FREE));
            }
        }
        self.form = Form::Sparse(groups);
    }

    /// Bytes it takes beside itself.
    #[cfg(test)]
    pub fn heap_bytes(&self) -> usize {
        match &self.form {
            Form::Dense(_) => PAGE_SLOTS * size_of::<S>(),
            Form::Sparse(groups) => {
                let slots: usize = groups.iter().map(|group| group.slots.capacity()).sum();
                GROUPS * size_of::<Group<S>>() + slots * size_of::<S>()
            }
        }
    }
}

/// Built on the heap slot by slot: a page of large entries must not pass over the stack.
fn new_slots<S: Slot>() -> Box<[S; PAGE_SLOTS]> {
    Box::new(std::array::from_fn(|_| S::FREE))
}

/// Entries by number. `base` is the number of slot 0.
pub struct PagedTable<T> {
    base: u64,
    pages: Vec<Option<Page<Option<T>>>>,
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
        self.pages.get(page)?.as_ref()?.get(slot)?.as_ref()
    }

    /// The entry of `number`, to be changed.
    pub fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        let (page, slot) = self.position(number)?;
        self.pages.get_mut(page)?.as_mut()?.get_mut(slot)?.as_mut()
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
        let old = self.pages[page].get_or_insert_default().insert(slot, Some(value)).flatten();
        self.len += usize::from(old.is_none());
        old
    }

    /// Takes an entry out.
    pub fn remove(&mut self, number: u64) -> Option<T> {
        let (index, slot) = self.position(number)?;
        let page = self.pages.get_mut(index)?.as_mut()?;
        let old = page.remove(slot)?;
        self.len -= 1;
        if page.used() == 0 {
            self.pages[index] = None;
        }
        old
    }

    /// All entries in order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.pages.iter().enumerate().filter_map(|(index, page)| Some((index, page.as_ref()?))).flat_map(
            move |(index, page)| {
                let first = self.base + (index * PAGE_SLOTS) as u64;
                page.iter().filter_map(move |(slot, entry)| Some((first + slot as u64, entry.as_ref()?)))
            },
        )
    }

    /// Bytes it takes beside itself.
    #[cfg(test)]
    fn heap_bytes(&self) -> usize {
        let pages: usize = self.pages.iter().flatten().map(Page::heap_bytes).sum();
        pages + self.pages.capacity() * size_of::<Option<Page<Option<T>>>>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

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

    /// As large as an inode.
    type Entry = [u64; 11];

    fn full_table(pages: u64) -> PagedTable<Entry> {
        let mut table = PagedTable::new(0);
        for number in 0..pages * PAGE_SLOTS as u64 {
            table.insert(number, [number; 11]);
        }
        table
    }

    #[test]
    fn memory_follows_what_is_left() {
        let mut table = full_table(20);
        let full = table.heap_bytes();
        assert!(full <= table.len() * (size_of::<Option<Entry>>() + 1), "a full table takes little but its entries");
        for number in 0..20 * PAGE_SLOTS as u64 {
            if !number.is_multiple_of(10) && !number.is_multiple_of(PAGE_SLOTS as u64) {
                table.remove(number);
            }
        }
        assert!(table.heap_bytes() <= full * 3 / 20, "of nine in ten removed, not much more than a tenth is left");
        for number in 0..20 * PAGE_SLOTS as u64 {
            if !number.is_multiple_of(PAGE_SLOTS as u64) {
                table.remove(number);
            }
        }
        assert_eq!(table.len(), 20);
        assert!(table.heap_bytes() <= 20 * 1024, "one entry keeps a kilobyte at most");
        assert!(table.iter().all(|(number, entry)| *entry == [number; 11]));
    }

    #[test]
    fn page_changes_its_form_without_losing_an_entry() {
        let mut page = Page::<Option<usize>>::default();
        for round in 0..3 {
            for slot in 0..PAGE_SLOTS {
                page.insert(slot, Some(slot + round));
            }
            assert!(matches!(page.form, Form::Dense(_)));
            for slot in (0..PAGE_SLOTS).filter(|slot| slot % 7 != round) {
                assert_eq!(page.remove(slot), Some(Some(slot + round)));
            }
            assert!(matches!(page.form, Form::Sparse(_)));
            let left: Vec<_> = page.iter().map(|(slot, entry)| (slot, *entry)).collect();
            assert_eq!(left.len(), page.used());
            assert!(left.iter().all(|&(slot, entry)| slot % 7 == round && entry == Some(slot + round)));
        }
    }

    proptest! {
        #[test]
        fn page_behaves_like_a_map(
            fill in 0..PAGE_SLOTS,
            steps in prop::collection::vec((any::<bool>(), 0..PAGE_SLOTS), 0..2_000),
        ) {
            let mut page = Page::<Option<usize>>::default();
            let mut model = BTreeMap::new();
            for slot in 0..fill {
                page.insert(slot, Some(slot));
                model.insert(slot, Some(slot));
            }
            for (number, (is_insert, slot)) in steps.into_iter().enumerate() {
                if is_insert {
                    prop_assert_eq!(page.insert(slot, Some(number)), model.insert(slot, Some(number)));
                } else {
                    prop_assert_eq!(page.remove(slot), model.remove(&slot));
                }
                prop_assert_eq!(page.get(slot), model.get(&slot));
            }
            prop_assert_eq!(page.used(), model.len());
            prop_assert!(page.iter().eq(model.iter().map(|(slot, entry)| (*slot, entry))));
        }
    }
}
