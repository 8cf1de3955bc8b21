//! Resource amounts as whole numbers, as upstream's scheduler counts them: a decision adds and compares thousands.

use api::decide::Resources;

/// Amounts by resource; those that every node has stand in fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Thousandths of a processor.
    pub cpu_milli: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes of `ephemeral-storage`.
    pub storage: i64,
    /// How many pods a node takes.
    pub pods: i64,
    /// All others, by name.
    pub others: Vec<(Box<str>, i64)>,
}

impl Amounts {
    /// The amounts, rounded up.
    pub fn of(resources: &Resources) -> Amounts {
        let mut amounts = Amounts::default();
        for (name, amount) in resources.iter() {
            match name {
                "cpu" => amounts.cpu_milli = amount.milli_value(),
                "memory" => amounts.memory = amount.value(),
                "ephemeral-storage" => amounts.storage = amount.value(),
                "pods" => amounts.pods = amount.value(),
                other => amounts.others.push((other.into(), amount.value())),
            }
        }
        amounts
    }

    /// The amount of a resource that stands in no field.
    pub fn other(&self, name: &str) -> i64 {
        self.others.iter().find(|(present, _)| **present == *name).map_or(0, |(_, amount)| *amount)
    }

    /// Adds every amount of `more`, so many times; negative takes away.
    pub fn add(&mut self, more: &Amounts, times: i64) {
        let sum = |left: i64, right: i64| left.saturating_add(right.saturating_mul(times));
        self.cpu_milli = sum(self.cpu_milli, more.cpu_milli);
        self.memory = sum(self.memory, more.memory);
        self.storage = sum(self.storage, more.storage);
        for (name, amount) in &more.others {
            match self.others.iter_mut().find(|(present, _)| present == name) {
                Some((_, present)) => *present = sum(*present, *amount),
                None => self.others.push((name.clone(), sum(0, *amount))),
            }
        }
    }
}

/// Processor and memory only: what scores go by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    pub cpu_milli: i64,
    pub memory: i64,
}

impl Load {
    /// Those two of all amounts.
    pub fn of(amounts: &Amounts) -> Load {
        Load { cpu_milli: amounts.cpu_milli, memory: amounts.memory }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Load) -> Load {
        Load {
            cpu_milli: self.cpu_milli.saturating_add(other.cpu_milli),
            memory: self.memory.saturating_add(other.memory),
        }
    }

    /// This without the other.
    #[must_use]
    pub fn minus(self, other: Load) -> Load {
        Load {
            cpu_milli: self.cpu_milli.saturating_sub(other.cpu_milli),
            memory: self.memory.saturating_sub(other.memory),
        }
    }
}
