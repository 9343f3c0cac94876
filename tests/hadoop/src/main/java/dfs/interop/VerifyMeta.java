package dfs.interop;

import java.io.BufferedInputStream;
import java.io.DataInputStream;
import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import org.apache.hadoop.hdfs.server.datanode.BlockMetadataHeader;
import org.apache.hadoop.util.DataChecksum;

/** Verifies a replica's file against its metadata file with Hadoop's classes for both. */
final class VerifyMeta {
  private static final int CHUNKS = 128;

  private VerifyMeta() {}

  static void run(String[] args) throws IOException {
    if (args.length != 2) {
      throw new IllegalArgumentException("verify-meta BLOCK_FILE META_FILE");
    }
    File metaFile = new File(args[1]);
    try (DataInputStream data = open(new File(args[0])); DataInputStream meta = open(metaFile)) {
      BlockMetadataHeader header = BlockMetadataHeader.readHeader(meta);
      if (header.getVersion() != BlockMetadataHeader.VERSION) {
        throw new IOException("version " + header.getVersion());
      }
      DataChecksum checksum = header.getChecksum();
      long length = new File(args[0]).length();
      long chunks = (length + checksum.getBytesPerChecksum() - 1) / checksum.getBytesPerChecksum();
      long expected = BlockMetadataHeader.getHeaderSize() + chunks * checksum.getChecksumSize();
      if (metaFile.length() != expected) {
        throw new IOException("the metadata file has " + metaFile.length() + " bytes, expected " + expected);
      }
      for (long at = 0; at < length; ) {
        int len = (int) Math.min((long) CHUNKS * checksum.getBytesPerChecksum(), length - at);
        ByteBuffer bytes = read(data, len);
        ByteBuffer sums = read(meta, checksum.getChecksumSize(len));
        checksum.verifyChunkedSums(bytes, sums, args[0], at);
        at += len;
      }
      System.out.println("verified " + length + " bytes with " + checksum);
    }
  }

  private static DataInputStream open(File file) throws IOException {
    return new DataInputStream(new BufferedInputStream(new FileInputStream(file)));
  }

  private static ByteBuffer read(DataInputStream in, int len) throws IOException {
    byte[] bytes = new byte[len];
    in.readFully(bytes);
    return ByteBuffer.wrap(bytes);
  }
}
