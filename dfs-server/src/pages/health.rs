//! Is it well, and what must be done: the first thing on every page.

/// How much something matters. The order is that of importance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Good to know.
    Note,
    /// The daemon serves and goes on by itself; somebody should look.
    Watch,
    /// Somebody must do something.
    Act,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    /// What is the matter.
    pub(crate) what: String,
    /// What to do about it.
    pub(crate) advice: String,
}

impl Finding {
    /// Name of its style.
    pub(crate) fn class(&self) -> &'static str {
        match self.level {
            Level::Note => "note",
            Level::Watch => "watch",
            Level::Act => "act",
        }
    }

    /// Its level in a word, for those who do not see the colour.
    pub(crate) fn word(&self) -> &'static str {
        match self.level {
            Level::Note => "Note",
            Level::Watch => "Look",
            Level::Act => "Act",
        }
    }
}

/// All that is the matter with a daemon, or with what it looks after.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Health {
    findings: Vec<Finding>,
}

impl Health {
    /// One more finding.
    pub(crate) fn add(&mut self, level: Level, what: impl Into<String>, advice: impl Into<String>) {
        self.findings.push(Finding { level, what: what.into(), advice: advice.into() });
    }

    /// What matters most comes first; among equals, in the order in which they were found.
    pub(crate) fn sorted(mut self) -> Self {
        self.findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
        self
    }

    pub(crate) fn findings(&self) -> &[Finding] {
        &self.findings
    }

    fn worst(&self) -> Level {
        self.findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Note)
    }

    /// Name of the style of the whole.
    pub(crate) fn class(&self) -> &'static str {
        match self.worst() {
            Level::Note => "well",
            Level::Watch => "watch",
            Level::Act => "act",
        }
    }

    /// The whole in one sentence.
    pub(crate) fn headline(&self) -> &'static str {
        match self.worst() {
            Level::Note => "All is well",
            Level::Watch => "It serves, and there is something to look at",
            Level::Act => "Somebody must act",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headline_is_that_of_the_worst_finding() {
        let mut health = Health::default();
        assert_eq!((health.class(), health.headline()), ("well", "All is well"));
        health.add(Level::Note, "a note", "");
        assert_eq!(health.class(), "well");
        health.add(Level::Act, "lost", "find it");
        health.add(Level::Watch, "slow", "wait");
        assert_eq!(health.class(), "act");
        let order: Vec<_> = health.sorted().findings().iter().map(Finding::class).collect();
        assert_eq!(order, ["act", "watch", "note"]);
    }
}
