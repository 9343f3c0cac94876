package dfs.interop;

import java.io.IOException;
import java.io.OutputStream;
import java.net.InetSocketAddress;
import java.nio.channels.SocketChannel;
import java.nio.file.Files;
import java.nio.file.Paths;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.hdfs.BlockReader;
import org.apache.hadoop.hdfs.DFSUtilClient;
import org.apache.hadoop.hdfs.PeerCache;
import org.apache.hadoop.hdfs.client.impl.BlockReaderRemote;
import org.apache.hadoop.hdfs.net.Peer;
import org.apache.hadoop.hdfs.protocol.DatanodeID;
import org.apache.hadoop.hdfs.protocol.ExtendedBlock;
import org.apache.hadoop.hdfs.server.datanode.CachingStrategy;
import org.apache.hadoop.security.token.Token;

/**
 * Reads a block, or a range of it, from a DataNode with Hadoop's own block reader, which verifies the checksums, and
 * writes the bytes to a file. With a repeat count it reads again on the connection that the reader gave back, which
 * proves that the DataNode is ready for another request after a read.
 */
final class ReadBlock {
  private static final int TIMEOUT_MS = 30_000;

  private ReadBlock() {}

  static void run(String[] args) throws IOException {
    if (args.length < 7) {
      throw new IllegalArgumentException(
          "read-block HOST PORT POOL BLOCK_ID GENSTAMP LENGTH OUT [OFFSET [COUNT [REPEATS]]]");
    }
    InetSocketAddress address = new InetSocketAddress(args[0], Integer.parseInt(args[1]));
    long length = Long.parseLong(args[5]);
    ExtendedBlock block = new ExtendedBlock(args[2], Long.parseLong(args[3]), length, Long.parseLong(args[4]));
    long offset = args.length > 7 ? Long.parseLong(args[7]) : 0;
    long count = args.length > 8 ? Long.parseLong(args[8]) : length - offset;
    int repeats = args.length > 9 ? Integer.parseInt(args[9]) : 1;

    PeerCache cache = new PeerCache(1, TIMEOUT_MS);
    DatanodeID datanode = new DatanodeID(args[0], args[0], "uuid", address.getPort(), 0, 0, 0);
    for (int i = 0; i < repeats; i++) {
      Peer peer = cache.get(datanode, false);
      boolean reused = peer != null;
      if (!reused) {
        peer = connect(address);
      }
      if (i > 0 && !reused) {
        throw new IOException("the DataNode closed the connection after read " + i);
      }
      long read = readOnce(block, offset, count, peer, datanode, cache, args[6]);
      System.out.println("read " + read + " bytes" + (reused ? " on the same connection" : ""));
    }
  }

  private static Peer connect(InetSocketAddress address) throws IOException {
    SocketChannel channel = SocketChannel.open();
    channel.socket().connect(address, TIMEOUT_MS);
    channel.socket().setTcpNoDelay(true);
    Peer peer = DFSUtilClient.peerFromSocket(channel.socket());
    peer.setReadTimeout(TIMEOUT_MS);
    peer.setWriteTimeout(TIMEOUT_MS);
    return peer;
  }

  private static long readOnce(ExtendedBlock block, long offset, long count, Peer peer, DatanodeID datanode,
      PeerCache cache, String file) throws IOException {
    long total = 0;
    BlockReader reader = BlockReaderRemote.newBlockReader(file, block, new Token<>(), offset, count, true, "interop",
        peer, datanode, cache, CachingStrategy.newDefaultStrategy(), -1, new Configuration(false));
    try (OutputStream out = Files.newOutputStream(Paths.get(file))) {
      byte[] buffer = new byte[64 * 1024];
      while (total < count) {
        // A packet may go past the range that was asked for, to the end of its last chunk.
        int read = reader.read(buffer, 0, (int) Math.min(buffer.length, count - total));
        if (read <= 0) {
          throw new IOException("the block ended after " + total + " of " + count + " bytes");
        }
        out.write(buffer, 0, read);
        total += read;
      }
    } finally {
      reader.close();
    }
    return total;
  }
}
