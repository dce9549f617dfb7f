//! The stack machine, without its power to call functions.

use std::collections::BTreeMap;

/// Most values a program may make: bounds its memory.
const VALUE_LIMIT: usize = 4_000_000;
/// Most parts of a call or a shape, and longest name of a storage: what is copied must be small.
const PART_LIMIT: usize = 64;

/// A tensor as the pickle describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TensorRecord {
    pub(super) storage: Storage,
    /// First element in the storage.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    /// In elements.
    pub(super) strides: Vec<usize>,
}

/// A run of elements in a file of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Storage {
    /// PyTorch's class, such as `FloatStorage`.
    pub(super) kind: String,
    /// Name of the file.
    pub(super) key: String,
    pub(super) elements: usize,
}

/// A value's place in [`Machine::values`]: pickles share values and even contain themselves.
type Index = usize;

#[derive(Clone, Debug)]
enum Value {
    Nothing,
    Bool,
    Int(i64),
    Text(String),
    Sequence(Vec<Index>),
    Dictionary(Vec<(Index, Index)>),
    /// `collections.OrderedDict`
    OrderedDict,
    /// `torch._utils._rebuild_tensor_v2`
    RebuildTensor,
    /// `torch._utils._rebuild_parameter`
    RebuildParameter,
    /// A class of storages, such as `torch.FloatStorage`.
    StorageClass(String),
    Storage(Storage),
    Tensor(TensorRecord),
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Bool => "a truth value",
            Self::Int(_) => "a number",
            Self::Text(_) => "a text",
            Self::Sequence(_) => "a list",
            Self::Dictionary(_) => "a dictionary",
            Self::OrderedDict => "OrderedDict",
            Self::RebuildTensor => "_rebuild_tensor_v2",
            Self::RebuildParameter => "_rebuild_parameter",
            Self::StorageClass(_) => "a class of storages",
            Self::Storage(_) => "a storage",
            Self::Tensor(_) => "a tensor",
        }
    }
}

/// The tensors of a pickled dictionary, or of the one it holds as `state_dict`. Entries that are no
/// tensors are left out.
pub(super) fn tensors(program: &[u8]) -> Result<BTreeMap<String, TensorRecord>, String> {
    let mut machine = Machine { program, ..Machine::default() };
    let root = machine
        .run()
        .map_err(|reason| format!("data.pkl at byte {}: {reason}", machine.position))?;
    let mut entries = machine.entries(root)?;
    if let Some((_, inner)) = entries.iter().find(|(name, _)| *name == "state_dict") {
        entries = machine.entries(*inner)?;
    }
    let tensor = |(name, index): (&str, Index)| match &machine.values[index] {
        Value::Tensor(record) => Some((name.to_owned(), record.clone())),
        _ => None,
    };
    Ok(entries.into_iter().filter_map(tensor).collect())
}

#[derive(Debug, Default)]
struct Machine<'a> {
    program: &'a [u8],
    position: usize,
    values: Vec<Value>,
    stack: Vec<Index>,
    /// Where the stack stood at each mark.
    marks: Vec<usize>,
    memo: BTreeMap<u32, Index>,
}

impl<'a> Machine<'a> {
    /// Runs to the end and gives what is left on the stack.
    fn run(&mut self) -> Result<Index, String> {
        loop {
            let [opcode] = self.bytes()?;
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode)?;
        }
    }

    fn step(&mut self, opcode: u8) -> Result<(), String> {
        match opcode {
            0x80 => self.protocol(),
            0x95 => self.bytes::<8>().map(drop), // FRAME: a length that only buffering needs
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => self.pop().map(drop),
            b'N' => self.push(Value::Nothing),
            0x88 | 0x89 => self.push(Value::Bool),
            b'K' | b'M' | b'J' | 0x8a => self.integer(opcode),
            b'G' => self.bytes::<8>().and_then(|_| self.push(Value::Nothing)),
            b'X' | 0x8c => self.text(opcode),
            b')' | b']' => self.push(Value::Sequence(Vec::new())),
            b'}' => self.push(Value::Dictionary(Vec::new())),
            b't' | b'l' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Sequence(items))
            }
            0x85..=0x87 => self.tuple(usize::from(opcode - 0x84)),
            b'a' | b'e' => self.append(opcode),
            b's' | b'u' => self.set_items(opcode),
            b'q' | b'r' | 0x94 => self.put(opcode),
            b'h' | b'j' => self.get(opcode),
            b'c' | 0x93 => self.global(opcode),
            b'Q' => self.storage(),
            b'R' => self.call(),
            b'b' => self.pop().map(drop), // BUILD: attributes such as `_metadata`
            other => Err(format!("opcode {other:#04x} is not one that a state dictionary needs")),
        }
    }

    fn slice(&mut self, length: usize) -> Result<&'a [u8], String> {
        let end = self.position.checked_add(length);
        let slice = end.and_then(|end| self.program.get(self.position..end));
        let slice = slice.ok_or_else(|| format!("expected {length} more bytes: truncated"))?;
        self.position += length;
        Ok(slice)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        Ok(self.slice(N)?.try_into().expect("a slice of N bytes"))
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.program[self.position..];
        let length = rest.iter().position(|&byte| byte == b'\n').ok_or("a line has no end")?;
        let line = self.slice(length + 1)?;
        std::str::from_utf8(&line[..length]).map_err(|error| error.to_string())
    }

    fn push(&mut self, value: Value) -> Result<(), String> {
        if self.values.len() >= VALUE_LIMIT {
            return Err(format!("expected at most {VALUE_LIMIT} values"));
        }
        self.values.push(value);
        self.stack.push(self.values.len() - 1);
        Ok(())
    }

    fn push_again(&mut self, value: Index) -> Result<(), String> {
        if self.stack.len() >= VALUE_LIMIT {
            return Err(format!("expected at most {VALUE_LIMIT} values on the stack"));
        }
        self.stack.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Result<Index, String> {
        self.stack.pop().ok_or_else(|| "the stack is empty".to_owned())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Index>, String> {
        let mark = self.marks.pop().ok_or("there is no mark on the stack")?;
        if mark > self.stack.len() {
            return Err("the mark lies above the stack".to_owned());
        }
        Ok(self.stack.split_off(mark))
    }

    fn top(&self) -> Result<Index, String> {
        self.stack.last().copied().ok_or_else(|| "the stack is empty".to_owned())
    }

    fn protocol(&mut self) -> Result<(), String> {
        match self.bytes()? {
            [2..=5] => Ok(()),
            [other] => Err(format!("expected pickle protocol 2 to 5, found {other}")),
        }
    }

    fn integer(&mut self, opcode: u8) -> Result<(), String> {
        let value = match opcode {
            b'K' => i64::from(u8::from_le_bytes(self.bytes()?)),
            b'M' => i64::from(u16::from_le_bytes(self.bytes()?)),
            b'J' => i64::from(i32::from_le_bytes(self.bytes()?)),
            _ => {
                let [length] = self.bytes()?;
                let digits = self.slice(usize::from(length))?;
                let negative = digits.last().is_some_and(|byte| byte & 0x80 != 0);
                let mut bytes = if negative { [0xff; 8] } else { [0; 8] };
                let target = bytes.get_mut(..digits.len()).ok_or("a number is too large")?;
                target.copy_from_slice(digits);
                i64::from_le_bytes(bytes)
            }
        };
        self.push(Value::Int(value))
    }

    fn text(&mut self, opcode: u8) -> Result<(), String> {
        let length = match opcode {
            b'X' => u32::from_le_bytes(self.bytes()?) as usize,
            _ => usize::from(u8::from_le_bytes(self.bytes()?)),
        };
        let text = std::str::from_utf8(self.slice(length)?).map_err(|error| error.to_string())?;
        self.push(Value::Text(text.to_owned()))
    }

    fn tuple(&mut self, length: usize) -> Result<(), String> {
        let start = self.stack.len().checked_sub(length).ok_or("the stack is too short")?;
        let items = self.stack.split_off(start);
        self.push(Value::Sequence(items))
    }

    fn append(&mut self, opcode: u8) -> Result<(), String> {
        let items = if opcode == b'a' { vec![self.pop()?] } else { self.pop_to_mark()? };
        let list = self.top()?;
        match &mut self.values[list] {
            Value::Sequence(list) => list.extend(items),
            other => return Err(format!("expected a list, found {}", other.kind())),
        }
        Ok(())
    }

    fn set_items(&mut self, opcode: u8) -> Result<(), String> {
        let items = if opcode == b's' {
            let (value, key) = (self.pop()?, self.pop()?);
            vec![key, value]
        } else {
            self.pop_to_mark()?
        };
        let dictionary = self.top()?;
        match &mut self.values[dictionary] {
            Value::Dictionary(entries) => {
                entries.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
            }
            other => return Err(format!("expected a dictionary, found {}", other.kind())),
        }
        Ok(())
    }

    fn put(&mut self, opcode: u8) -> Result<(), String> {
        let place = match opcode {
            b'q' => u32::from(u8::from_le_bytes(self.bytes()?)),
            b'r' => u32::from_le_bytes(self.bytes()?),
            _ => self.memo.len() as u32,
        };
        let top = self.top()?;
        self.memo.insert(place, top);
        Ok(())
    }

    fn get(&mut self, opcode: u8) -> Result<(), String> {
        let place = match opcode {
            b'h' => u32::from(u8::from_le_bytes(self.bytes()?)),
            _ => u32::from_le_bytes(self.bytes()?),
        };
        let value = self.memo.get(&place).ok_or_else(|| format!("memo {place} is empty"))?;
        self.push_again(*value)
    }

    fn global(&mut self, opcode: u8) -> Result<(), String> {
        let (module, name) = if opcode == b'c' {
            (self.line()?.to_owned(), self.line()?.to_owned())
        } else {
            let (name, module) = (self.pop()?, self.pop()?);
            (self.as_text(module)?.to_owned(), self.as_text(name)?.to_owned())
        };
        let value = match (module.as_str(), name.as_str()) {
            ("collections", "OrderedDict") => Value::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Value::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Value::RebuildParameter,
            ("torch", class) if class.ends_with("Storage") => Value::StorageClass(class.to_owned()),
            _ => {
                return Err(format!(
                    "`{module}.{name}` is not part of a dictionary of tensors; it was not run"
                ));
            }
        };
        self.push(value)
    }

    /// A persistent id: `("storage", class, key, device, number of elements)`.
    fn storage(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let storage = match self.as_sequence(id)? {
            &[tag, class, key, _, elements] if self.as_text(tag)? == "storage" => {
                let Value::StorageClass(kind) = &self.values[class] else {
                    return Err("expected a class of storages".to_owned());
                };
                let key = self.as_text(key)?.to_owned();
                Storage { kind: kind.clone(), key, elements: self.as_size(elements)? }
            }
            _ => return Err("expected the five parts of a storage".to_owned()),
        };
        self.push(Value::Storage(storage))
    }

    /// What a call of one of the known names stands for.
    fn call(&mut self) -> Result<(), String> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let arguments = self.as_sequence(arguments)?.to_vec();
        match (&self.values[function], arguments.as_slice()) {
            (Value::OrderedDict, []) => self.push(Value::Dictionary(Vec::new())),
            (Value::RebuildTensor, [storage, offset, shape, strides, ..]) => {
                let Value::Storage(storage) = &self.values[*storage] else {
                    return Err("expected a tensor's storage".to_owned());
                };
                let record = TensorRecord {
                    storage: storage.clone(),
                    offset: self.as_size(*offset)?,
                    shape: self.as_sizes(*shape)?,
                    strides: self.as_sizes(*strides)?,
                };
                self.push(Value::Tensor(record))
            }
            (Value::RebuildParameter, [tensor, ..]) => self.push_again(*tensor),
            (function, _) => Err(format!("cannot call {} with these", function.kind())),
        }
    }

    fn as_text(&self, index: Index) -> Result<&str, String> {
        match &self.values[index] {
            Value::Text(text) if text.len() <= PART_LIMIT => Ok(text),
            other => Err(format!("expected a short text, found {}", other.kind())),
        }
    }

    fn as_sequence(&self, index: Index) -> Result<&[Index], String> {
        match &self.values[index] {
            Value::Sequence(items) if items.len() <= PART_LIMIT => Ok(items),
            other => Err(format!("expected a short tuple, found {}", other.kind())),
        }
    }

    fn as_size(&self, index: Index) -> Result<usize, String> {
        match self.values[index] {
            Value::Int(value) => {
                usize::try_from(value).map_err(|_| format!("expected a size, found {value}"))
            }
            ref other => Err(format!("expected a size, found {}", other.kind())),
        }
    }

    fn as_sizes(&self, index: Index) -> Result<Vec<usize>, String> {
        self.as_sequence(index)?.iter().map(|&index| self.as_size(index)).collect()
    }

    /// The entries of a dictionary whose keys are texts.
    fn entries(&self, index: Index) -> Result<Vec<(&str, Index)>, String> {
        let Value::Dictionary(entries) = &self.values[index] else {
            return Err("expected a dictionary of tensors at the top of data.pkl".to_owned());
        };
        let named = entries.iter().filter_map(|&(key, value)| match &self.values[key] {
            Value::Text(name) => Some((name.as_str(), value)),
            _ => None,
        });
        Ok(named.collect())
    }
}
