//! Sums over all volumes that can be used, kept up to date: `df` asks for them, on every mount and as often as it likes.

use super::Datanodes;
use super::index::NodeIndex;
use super::space::Space;

impl Datanodes {
    /// Takes the volumes of a node in, as they are now.
    pub(super) fn count_space(&mut self, node: NodeIndex) {
        let of_node = self.space_of(node);
        self.space.capacity += of_node.capacity;
        self.space.used += of_node.used;
        self.space.remaining += of_node.remaining;
    }

    /// Takes the volumes of a node out, before they change.
    pub(super) fn uncount_space(&mut self, node: NodeIndex) {
        let of_node = self.space_of(node);
        self.space.capacity -= of_node.capacity;
        self.space.used -= of_node.used;
        self.space.remaining -= of_node.remaining;
    }

    pub(crate) fn space_of(&self, node: NodeIndex) -> Space {
        let mut space = Space::default();
        for &index in self.node(node).storages.iter().filter(|&&index| self.is_usable(index)) {
            let storage = self.storage(index);
            space.capacity += u128::from(storage.capacity);
            space.used += u128::from(storage.used);
            space.remaining += u128::from(storage.remaining);
        }
        space
    }
}
