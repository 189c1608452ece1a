//! Trace lines, which switches turn on: those of CONTROL's `log` and of `--trace-control`, by the C server's names. All
//! are off at first. Lines that are always logged do not belong to this module.

use bitflags::bitflags;

bitflags! {
    /// The kinds of trace lines.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Switches: u8 {
        /// Connections, watches and transactions that are opened or closed.
        const OBJ = 1;
        /// Requests and their outcomes.
        const IO = 2;
        /// Write credits.
        const WRL = 4;
        /// The numbers of nodes and watches of a requester's domain.
        const ACC = 8;
        /// Changes of nodes.
        const TDB = 16;
    }
}

/// The switches, and the main switch over them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The kinds that are switched on.
    pub switches: Switches,
    /// Whether any trace line is logged.
    pub is_on: bool,
}

impl Default for Trace {
    fn default() -> Self {
        Self { switches: Switches::empty(), is_on: true }
    }
}

impl Trace {
    /// The switches with their names, in the C server's order.
    pub const NAMES: [(&'static str, Switches); 5] = [
        ("obj", Switches::OBJ),
        ("io", Switches::IO),
        ("wrl", Switches::WRL),
        ("acc", Switches::ACC),
        ("tdb", Switches::TDB),
    ];

    /// Returns whether lines of a kind are logged.
    #[must_use]
    pub const fn wants(&self, kind: Switches) -> bool {
        self.is_on && self.switches.contains(kind)
    }

    /// Returns the switches after a command: `on`, `off`, or a switch's name after `+` or `-`. `None` for any other
    /// command.
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
