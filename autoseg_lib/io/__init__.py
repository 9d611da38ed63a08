"""Files in and out: DICOM, NIfTI/NRRD/MHA, PNG/JPG/TIFF/NPY. The only home of pydicom."""
