//! Tensors from and to NumPy's file format.

use std::fs;
use std::io::{BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Result, anyhow, ensure};
use graph::{DType, Element, Tensor};
use half::f16;
use npyz::{DType as Layout, NpyFile, WriterBuilder as _};

/// A name and a file, `input_ids=ids.npy`.
#[derive(Clone, Debug)]
pub(in crate::cli) struct NamedFile {
    pub(in crate::cli) name: String,
    pub(in crate::cli) file: PathBuf,
}

impl FromStr for NamedFile {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, file) = text
            .split_once('=')
            .ok_or_else(|| format!("expected NAME=FILE.npy, found `{text}`"))?;
        Ok(Self { name: name.to_owned(), file: file.into() })
    }
}

/// The tensor of a `.npy` file; floats of 16 and 64 bits become f32.
///
/// # Errors
/// When the file is unreadable, or has elements that graphs do not hold.
pub(in crate::cli) fn read_npy(path: &Path) -> Result<Tensor> {
    let read = || -> Result<Tensor> {
        let file = NpyFile::new(BufReader::new(fs::File::open(path)?))?;
        let Layout::Plain(layout) = file.dtype() else {
            return Err(anyhow!("expected plain elements, found a structured type"));
        };
        match layout.to_string().as_str() {
            "<f4" => elements(file, |x: f32| x),
            "<f2" => elements(file, f16::to_f32),
            "<f8" => elements(file, |x: f64| x as f32),
            "<i8" => elements(file, |x: i64| x),
            "<i4" => elements(file, |x: i32| x),
            "|i1" => elements(file, |x: i8| x),
            "|u1" => elements(file, |x: u8| x),
            "|b1" => elements(file, |x: bool| x),
            other => Err(anyhow!(
                "expected f32, f64, f16, i64, i32, i8, u8 or bool elements, found `{other}`"
            )),
        }
    };
    read().with_context(|| format!("cannot read {}", path.display()))
}

fn elements<T: npyz::Deserialize, U: Element>(
    file: NpyFile<BufReader<fs::File>>,
    convert: impl Fn(T) -> U,
) -> Result<Tensor> {
    let shape: Vec<usize> =
        file.shape().iter().map(|&size| usize::try_from(size)).collect::<Result<_, _>>()?;
    // One dimension reads the same in both orders.
    let row_major = file.order() == npyz::Order::C || shape.len() < 2;
    ensure!(row_major, "expected elements row by row (C order), found Fortran's order");
    let elements = file.into_vec::<T>()?.into_iter().map(convert);
    Ok(Tensor::new(&shape, elements.collect::<Vec<U>>())?)
}

/// Writes a tensor as a `.npy` file.
///
/// # Errors
/// When the file cannot be written.
pub(in crate::cli) fn write_npy(path: &Path, tensor: &Tensor) -> Result<()> {
    let write = || match tensor.dtype() {
        DType::F32 => put::<f32>(path, tensor),
        DType::I64 => put::<i64>(path, tensor),
        DType::I32 => put::<i32>(path, tensor),
        DType::I8 => put::<i8>(path, tensor),
        DType::U8 => put::<u8>(path, tensor),
        DType::Bool => put::<bool>(path, tensor),
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn put<T: Element + npyz::AutoSerialize>(path: &Path, tensor: &Tensor) -> Result<()> {
    let mut file = BufWriter::new(fs::File::create(path)?);
    let shape: Vec<u64> = tensor.shape().iter().map(|&size| size as u64).collect();
    let mut writer =
        npyz::WriteOptions::new().default_dtype().shape(&shape).writer(&mut file).begin_nd()?;
    writer.extend(tensor.elements::<T>()?.iter().copied())?;
    writer.finish()?;
    Ok(file.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        for dtype in DType::ALL {
            for shape in [vec![], vec![3], vec![2, 0], vec![2, 3, 4]] {
                let tensor = Tensor::zeros(dtype, &shape);
                write_npy(&path, &tensor).unwrap();
                assert_eq!(read_npy(&path).unwrap(), tensor);
            }
        }
        let x = Tensor::from_fn(&[2, 3], |index| index as f32 - 2.5);
        write_npy(&path, &x).unwrap();
        assert_eq!(read_npy(&path).unwrap(), x);
    }

    #[test]
    fn floats_of_16_bits_become_f32() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        let halves = [0.5, -2.0, 65504.0].map(f16::from_f32);
        let file = BufWriter::new(fs::File::create(&path).unwrap());
        let options = npyz::WriteOptions::new().default_dtype().shape(&[3]);
        let mut writer = options.writer(file).begin_nd().unwrap();
        writer.extend(halves).unwrap();
        writer.finish().unwrap();
        let expected = Tensor::new(&[3], vec![0.5f32, -2.0, 65504.0]).unwrap();
        assert_eq!(read_npy(&path).unwrap(), expected);
    }

    #[test]
    fn other_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        fs::write(&path, b"nothing of the kind").unwrap();
        assert!(read_npy(&path).unwrap_err().to_string().contains("x.npy"));
    }
}
