//! What the engine tells of its work in the log, by switches: those of CONTROL's `log` and of `--trace-control`, by the C
//! server's names. All are off at first; lines that are always logged are no concern of this module.

use bitflags::bitflags;

bitflags! {
    /// Kinds of lines.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Switches: u8 {
        /// Connections, watches and transactions that come and go.
        const OBJ = 1;
        /// Requests and their outcomes.
        const IO = 2;
        /// Write credits.
        const WRL = 4;
        /// What is counted for a domain.
        const ACC = 8;
        /// Changes of nodes.
        const TDB = 16;
    }
}

/// The switches, and whether they count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Which kinds are wanted.
    pub switches: Switches,
    /// Whether any is written.
    pub is_on: bool,
}

impl Default for Trace {
    fn default() -> Self {
        Self { switches: Switches::empty(), is_on: true }
    }
}

impl Trace {
    /// The switches with their names, in the order of the C server.
    pub const NAMES: [(&'static str, Switches); 5] = [
        ("obj", Switches::OBJ),
        ("io", Switches::IO),
        ("wrl", Switches::WRL),
        ("acc", Switches::ACC),
        ("tdb", Switches::TDB),
    ];

    /// Whether lines of a kind are to be written.
    #[must_use]
    pub const fn wants(&self, kind: Switches) -> bool {
        self.is_on && self.switches.contains(kind)
    }

    /// The same after a command: `on`, `off`, or a switch with `+` or `-` before it.
    #[must_use]
    pub fn after(mut self, command: &str) -> Option<Self> {
        let (sign, name) = command.split_at_checked(1)?;
        let switch = || Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, switch)| *switch);
        match (command, sign) {
            ("on", _) => self.is_on = true,
            ("off", _) => self.is_on = false,
            (_, "+") => self.switches.insert(switch()?),
            (_, "-") => self.switches.remove(switch()?),
            _ => return None,
        }
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_are_set_by_name_and_count_only_while_the_log_is_on() {
        let trace = Trace::default().after("+io").and_then(|trace| trace.after("+wrl")).unwrap();
        assert!(trace.wants(Switches::IO) && trace.wants(Switches::WRL) && !trace.wants(Switches::OBJ));
        let off = trace.after("off").unwrap();
        assert!(!off.wants(Switches::IO));
        assert_eq!(off.after("on"), Some(trace));
        assert!(!trace.after("-io").unwrap().wants(Switches::IO));
        for wrong in ["", "+", "io", "+all", "ON", "+io ", "\u{e4}"] {
            assert_eq!(trace.after(wrong), None, "{wrong:?}");
        }
    }
}
