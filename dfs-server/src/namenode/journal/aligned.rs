//! A reusable buffer whose bytes begin at an address that O_DIRECT accepts.

/// O_DIRECT asks for the device's sector size; a page is a multiple of every one there is.
pub(super) const MEMORY_ALIGNMENT: usize = 4096;

/// Grows to the largest frame written and stays there: frames are bounded by `PAYLOAD_BYTES_MAX`.
#[derive(Default)]
pub(super) struct AlignedBuffer {
    memory: Vec<u8>,
    start: usize,
}

impl AlignedBuffer {
    /// Fills the buffer with at most `capacity` bytes by `fill`, which appends to the vector it is given, and returns what
    /// was appended, aligned.
    pub(super) fn fill<E>(
        &mut self,
        capacity: usize,
        fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<&[u8], E> {
        self.memory.clear();
        self.memory.reserve(capacity + MEMORY_ALIGNMENT);
        self.start = self.memory.as_ptr().align_offset(MEMORY_ALIGNMENT);
        self.memory.resize(self.start, 0);
        let address = self.memory.as_ptr();
        fill(&mut self.memory)?;
        assert_eq!(address, self.memory.as_ptr(), "the buffer was filled beyond the capacity asked for");
        Ok(&self.memory[self.start..])
    }

    /// Zeros, aligned.
    pub(super) fn zeros(&mut self, length: usize) -> &[u8] {
        let filled: Result<&[u8], std::convert::Infallible> = self.fill(length, |bytes| {
            bytes.resize(bytes.len() + length, 0);
            Ok(())
        });
        match filled {
            Ok(bytes) => bytes,
            Err(never) => match never {},
        }
    }
}
