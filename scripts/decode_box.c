/* Decodes a box of a JPEG file, for measure_decoders.py. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <jpeglib.h>

/* Writes the pixels of a box to `pixels`, [h, w, 3]. A damaged file ends the
   process. libjpeg decodes whole columns of blocks, so a row may be wider than
   the box; `row` holds one of them. */
void decode_box(const unsigned char *content, unsigned long size, unsigned top,
                unsigned left, unsigned h, unsigned w, unsigned char *pixels) {
  struct jpeg_decompress_struct jpeg;
  struct jpeg_error_mgr errors;
  jpeg.err = jpeg_std_error(&errors);
  jpeg_create_decompress(&jpeg);
  jpeg_mem_src(&jpeg, content, size);
  jpeg_read_header(&jpeg, TRUE);
  jpeg.out_color_space = JCS_RGB;
  jpeg.dct_method = JDCT_IFAST;
  jpeg.do_fancy_upsampling = FALSE;
  jpeg_start_decompress(&jpeg);
  JDIMENSION first = left, width = w;
  jpeg_crop_scanline(&jpeg, &first, &width);
  unsigned char *row = malloc(3 * width);
  jpeg_skip_scanlines(&jpeg, top);
  for (unsigned y = 0; y < h; ++y) {
    jpeg_read_scanlines(&jpeg, &row, 1);
    memcpy(pixels, row + 3 * (left - first), 3 * w);
    pixels += 3 * w;
  }
  free(row);
  jpeg_abort_decompress(&jpeg);
  jpeg_destroy_decompress(&jpeg);
}
